"""RecBole MultiVAE, through its `Config`, atomic files, data loaders and `Trainer.fit`.

An epoch's time is that of `Trainer._train_epoch`; `fit` gets no validation data and saves nothing.
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
from recbole.model.general_recommender import MultiVAE
from recbole.trainer import Trainer
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_topk
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest


class TimedTrainer(Trainer):
    """RecBole's trainer with a clock around its training epoch and a cut at `steps`."""

    clock: contest.EpochClock
    steps: int | None  # None: all of the loader's

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        with self.clock.epoch():
            batches = islice(iter(train_data), self.steps)
            return super()._train_epoch(batches, epoch_idx, loss_func, show_progress)


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
    settings = {
        "data_path": str(Path(folder).parent),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "checkpoint_dir": folder,
        "use_gpu": False,
        "epochs": options.epochs,
        "train_batch_size": contest.BATCH,
        "learning_rate": contest.LEARNING_RATE,
        "train_neg_sample_args": None,
        "mlp_hidden_size": [contest.HIDDEN],
        "latent_dimension": 2 * contest.LATENT,  # counts mean and log-variance together
        "dropout_prob": contest.DROPOUT,
        "anneal_cap": contest.ANNEAL_CAP,
        "total_anneal_steps": ramp,
        "seed": options.seed,
        "show_progress": False,
    }
    return Config(model="MultiVAE", dataset=Path(folder).name, config_dict=settings)


def score_new_users(model: MultiVAE, fold_in: sparse.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Score users unseen in training, for which RecBole has no call, by exchanging its histories.

    `items[i]` is RecBole's index of our item i. Returns dense scores V x I in our order.
    """
    users, width = fold_in.shape[0], int(np.diff(fold_in.indptr).max())
    coo = fold_in.tocoo()
    place = np.arange(coo.nnz) - np.repeat(fold_in.indptr[:-1], np.diff(fold_in.indptr))
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
    options = contest.parse_options(__doc__)
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
        model = MultiVAE(config, train_data.dataset)
        trainer = TimedTrainer(config, model)
        setup_seconds = time.perf_counter() - start
        trainer.clock = clock = contest.EpochClock.of(options, data)
        trainer.steps = options.max_steps
        trainer.fit(train_data, valid_data=None, saved=False, show_progress=False)
    train_peak = contest.peak_rss_mb()

    users = dataset.token2id(dataset.uid_field, data.topk_users.astype(str))
    items = dataset.token2id(dataset.iid_field, np.arange(data.train.shape[1]).astype(str))

    def recommend() -> None:
        for start in range(0, len(users), contest.BATCH):
            full_sort_topk(users[start : start + contest.BATCH], model, test_data, k=contest.K)

    topk_seconds = contest.median_seconds(recommend)
    scores = score_new_users(model, data.fold_in, items)
    steps = trainer.steps or len(train_data)  # its padding user makes one more user than there are
    losses = [trainer.train_loss_dict[epoch] / steps for epoch in range(options.epochs)]
    contest.write_result(
        options,
        data,
        library="RecBole MultiVAE",
        version=recbole.__version__,
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=losses,
        ranked=contest.top_k(scores, data.fold_in),
        topk_seconds=topk_seconds,
        notes={"noise": "std 0.01 at training, as shipped"},
    )


if __name__ == "__main__":
    main()
