"""Microsoft recommenders' Mult_VAE (TensorFlow 2.15, eager execution off), through its own `fit`.

An epoch's time runs from Keras's start of the epoch to the end of its last training batch, without
the validation pass that follows. The first epoch holds the tracing of the graph and the library's
two shuffled dense copies of the whole training matrix (U x I float32 each: 9.3 GB a copy at 116,000
x 20,000, so the larger shape does not fit in 24 GiB). Its NDCG callback is replaced by the clock.
With `--max-steps` the library is told that there are only that many batches of users.
"""

# The library is installed in an environment of its own only, so its types are unknown here.
# mypy: disable-error-code="import-not-found, import-untyped, misc"

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import recommenders
import tensorflow as tf
from recommenders.models.vae import multinomial_vae

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest


class Clock(tf.keras.callbacks.Callback):
    """Takes the place of the library's `Metrics`: times epochs, saves the last weights."""

    clock: contest.EpochClock  # set on the class, because the library makes the instance

    def __init__(self, model: tf.keras.Model, save_path: str, **_: object) -> None:
        super().__init__()
        self.keras_model, self.save_path = model, save_path
        self.start = self.last = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the epoch."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Remember when the latest training batch ended."""
        self.last = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch, up to its last training batch."""
        self.clock.add(self.last - self.start)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Save the weights where `recommend_k_items` reads them on every call."""
        self.keras_model.save_weights(self.save_path)

    def get_data(self) -> list[float]:
        """Give no NDCG: the library asks for it after training."""
        return []


def as_lists(top_scores: np.ndarray) -> np.ndarray:
    """Turn the library's matrix, zero but for the recommended items, into lists padded with -1."""
    masked = np.where(top_scores == 0, -np.inf, top_scores)
    order = np.argsort(-masked, axis=1, kind="stable")[:, : contest.K]
    kept = np.isfinite(np.take_along_axis(masked, order, axis=1))
    return np.where(kept, order, -1)


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__)
    tf.compat.v1.disable_eager_execution()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    tf.random.set_seed(options.seed)
    start = time.perf_counter()
    data = contest.load(options)
    steps = data.train.shape[0] // contest.BATCH  # the library drops a short last batch
    steps = min(options.max_steps or steps, steps)
    users, fold_in = steps * contest.BATCH, data.fold_in.toarray()
    Clock.clock = clock = contest.EpochClock.of(options, data)
    multinomial_vae.Metrics = Clock
    with tempfile.TemporaryDirectory() as folder:
        model = multinomial_vae.Mult_VAE(
            n_users=users,
            original_dim=data.train.shape[1],
            intermediate_dim=contest.HIDDEN,
            latent_dim=contest.LATENT,
            n_epochs=options.epochs,
            batch_size=contest.BATCH,
            k=contest.K,
            verbose=0,
            drop_encoder=contest.DROPOUT,
            drop_decoder=0.0,
            annealing=True,
            anneal_cap=contest.ANNEAL_CAP,  # its ramp: the cap after 80 % of the epochs
            seed=options.seed,
            save_path=str(Path(folder) / "weights.h5"),
        )
        dense = data.train[:users].toarray() if options.max_steps else data.train.toarray()
        setup_seconds = time.perf_counter() - start
        model.fit(dense, fold_in[:100], fold_in[:100], fold_in[:100], mapper=None)
        train_peak = contest.peak_rss_mb()
        histories = data.train[data.topk_users].toarray()
        topk_seconds = contest.median_seconds(lambda: model.recommend_k_items(histories, contest.K))
        shipped = as_lists(model.recommend_k_items(fold_in, contest.K))
    masked = contest.top_k(model.model.predict(fold_in), data.fold_in)
    contest.write_result(
        options,
        data,
        library="recommenders Mult_VAE",
        version=recommenders.__version__,
        framework=f"tensorflow {tf.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=[float(loss) for loss in model.train_loss],
        # As shipped it sets the logits of seen items to 0, which does not exclude them.
        ranked=masked,
        topk_seconds=topk_seconds,
        notes={
            "ndcg100_of_recommend_k_items": contest.ndcg_at_k(shipped, data.held_out),
            "mean_list_length_of_recommend_k_items": float((shipped >= 0).sum(axis=1).mean()),
            "prediction": "samples z, as shipped",
        },
    )


if __name__ == "__main__":
    main()
