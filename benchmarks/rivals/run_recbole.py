"""RecBole MultiVAE, RecVAE or EASE, through its `Config`, files, data loaders and `Trainer.fit`.

An epoch's time is that of `_train_epoch`, which of RecVAE trains a set; `fit` gets no validation
data and saves nothing. EASE is solved in its constructor, so that this is its one epoch.
Both VAEs as shipped draw z with a hundredth of the posterior's deviation; RecVAE begins from
Xavier weights and biases of 0, not from the authors' (PyTorch's default).
The 2,000 users are recommended to with `full_sort_topk`, RecBole's own function, 500 at a time; so
that its loader knows their histories, each of them gets one unseen item as a test positive.
"""

# The library is installed in an environment of its own only, so its types are unknown here.
# mypy: disable-error-code="import-not-found, import-untyped, misc"

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import EASE, MultiVAE, RecVAE
from recbole.trainer import RecVAETrainer, Trainer
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_topk
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest

CLASSES = {"multi-vae": MultiVAE, "recvae": RecVAE, "ease": EASE}


class Cut:
    """The first `steps` batches of a loader, in each pass anew; None: all."""

    def __init__(self, loader: Any, steps: int | None) -> None:
        self.loader, self.steps = loader, steps

    def __iter__(self) -> Iterator[Any]:
        """Begin a pass."""
        return islice(iter(self.loader), self.steps)


class Timed:
    """Puts a clock around the training epoch of the trainer behind it, and a cut at `steps`."""

    clock: contest.EpochClock
    steps: int | None

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        with self.clock.epoch():
            cut = Cut(train_data, self.steps)
            return super()._train_epoch(cut, epoch_idx, loss_func, show_progress)


class TimedTrainer(Timed, Trainer):
    """RecBole's trainer, timed."""


class TimedRecVAETrainer(Timed, RecVAETrainer):
    """RecBole's trainer of RecVAE, timed."""


def write_atomic(folder: Path, data: contest.BenchmarkData) -> None:
    """Write the `.inter` files: all training pairs, and one unseen item for each top-k user."""
    rng = np.random.default_rng(0)
    unseen = rng.integers(0, data.train.shape[1], len(data.topk_users))
    for place, user in enumerate(data.topk_users):
        row = data.train[user].indices
        while unseen[place] in row:
            unseen[place] = rng.integers(0, data.train.shape[1])
    pairs = {
        "train": data.train.nonzero(),
        "valid": (data.topk_users[:1], unseen[:1]),
        "test": (data.topk_users, unseen),
    }
    for part, (users, items) in pairs.items():
        table = np.column_stack([users, items])
        header = "user_id:token\titem_id:token"
        path = folder / f"bench.{part}.inter"
        np.savetxt(path, table, fmt="%d", delimiter="\t", header=header, comments="")


def configure(options: contest.Options, folder: str, ramp: int) -> Config:
    """Build the configuration; everything that is not the task's is left at RecBole's default."""
    sys.argv = sys.argv[:1]  # Config reads the command line by itself
    shared: dict[str, Any] = {
        "data_path": str(Path(folder).parent),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "checkpoint_dir": folder,
        "use_gpu": False,
        "epochs": options.epochs,
        "train_batch_size": contest.BATCH,
        "train_neg_sample_args": None,
        "seed": options.seed,
        "show_progress": False,
    }
    own: dict[str, dict[str, Any]] = {
        "multi-vae": {
            "learning_rate": contest.LEARNING_RATE,
            "mlp_hidden_size": [contest.HIDDEN],
            "latent_dimension": 2 * contest.LATENT,  # counts mean and log-variance together
            "dropout_prob": contest.DROPOUT,
            "anneal_cap": contest.ANNEAL_CAP,
            "total_anneal_steps": ramp,
        },
        "recvae": {
            "learning_rate": contest.RECVAE_LEARNING_RATE,
            "hidden_dimension": contest.HIDDEN,
            "latent_dimension": contest.LATENT,
            "dropout_prob": contest.DROPOUT,
            "gamma": contest.GAMMA,
            "n_enc_epochs": contest.ENCODER_EPOCHS,
            "n_dec_epochs": contest.DECODER_EPOCHS,
        },
        "ease": {"reg_weight": contest.EASE_L2},
    }
    name = CLASSES[options.model].__name__
    settings = shared | own[options.model]
    return Config(model=name, dataset=Path(folder).name, config_dict=settings)


def trained(
    options: contest.Options, config: Config, train_data: Any, clock: contest.EpochClock
) -> tuple[Any, list[float] | None, float]:
    """Train; returns the model, each epoch's mean loss and the seconds of making model and trainer.

    RecVAE's loss is that of each set's decoder epoch; EASE has none.
    """
    start = time.perf_counter()
    if options.model == "ease":
        with clock.epoch():
            return EASE(config, train_data.dataset), None, 0.0
    model = CLASSES[options.model](config, train_data.dataset)
    trainer = (TimedRecVAETrainer if options.model == "recvae" else TimedTrainer)(config, model)
    setup_seconds = time.perf_counter() - start
    trainer.clock, trainer.steps = clock, options.max_steps
    trainer.fit(train_data, valid_data=None, saved=False, show_progress=False)
    steps = trainer.steps or len(train_data)  # its padding user makes one more user than there are
    losses = [trainer.train_loss_dict[epoch] / steps for epoch in range(options.epochs)]
    return model, losses, setup_seconds


def score_new_users(model: Any, fold_in: sparse.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Score users unseen in training, for which RecBole has no call, by exchanging its histories.

    `items[i]` is RecBole's index of our item i. Returns dense scores V x I in our order.
    """
    users, width = fold_in.shape[0], int(np.diff(fold_in.indptr).max())
    coo = fold_in.tocoo()
    place = np.arange(coo.nnz) - np.repeat(fold_in.indptr[:-1], np.diff(fold_in.indptr))
    if isinstance(model, EASE):
        shape = (users, model.item_similarity.shape[0])
        model.interaction_matrix = sparse.csr_matrix((coo.data, (coo.row, items[coo.col])), shape)
    else:
        history = torch.zeros(users, width, dtype=torch.int64)
        value = torch.zeros(users, width)
        history[coo.row, place] = torch.from_numpy(items[coo.col])
        value[coo.row, place] = 1.0
        model.history_item_id, model.history_item_value = history, value
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({model.USER_ID: torch.arange(users)}))
    return np.asarray(scores.view(users, -1).numpy()[:, items])


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__, contest.MODELS)
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    data = contest.load(options)
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory())
        folder = Path(root) / "bench"
        folder.mkdir()
        stack.enter_context(chdir(root))  # it writes a TensorBoard log where it is
        write_atomic(folder, data)
        start = time.perf_counter()
        config = configure(options, str(folder), contest.anneal_steps(options, data))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train_data, _, test_data = data_preparation(config, dataset)
        setup_seconds = time.perf_counter() - start
        clock = contest.EpochClock.of(options, data)
        model, losses, more_seconds = trained(options, config, train_data, clock)
    train_peak = contest.peak_rss_mb()

    users = dataset.token2id(dataset.uid_field, data.topk_users.astype(str))
    items = dataset.token2id(dataset.iid_field, np.arange(data.train.shape[1]).astype(str))

    def recommend() -> None:
        for start in range(0, len(users), contest.BATCH):
            full_sort_topk(users[start : start + contest.BATCH], model, test_data, k=contest.K)

    topk_seconds = contest.median_seconds(recommend)
    scores = score_new_users(model, data.fold_in, items)
    contest.write_result(
        options,
        data,
        library=f"RecBole {type(model).__name__}",
        version=recbole.__version__,
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds + more_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=losses,
        ranked=contest.top_k(scores, data.fold_in),
        topk_seconds=topk_seconds,
        notes={} if options.model == "ease" else {"noise": "std 0.01 at training, as shipped"},
    )


if __name__ == "__main__":
    main()
