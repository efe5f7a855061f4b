"""RecPack MultVAE or RecVAE, through its own `fit` and `predict`, keeping the last model.

An epoch's time is that of `_train_epoch`: listing and shuffling the users, batches, steps. The
evaluation that `fit` runs after each epoch is left out (it gets one user). RecPack wants training
and validation matrices of one shape, so validation users are extra rows, empty in training.
With `--max-steps` only the users of that many batches keep their rows. RecVAE as shipped drops
half of the input in the decoder's epoch too, and draws z a second time for the KL term.
"""

# The library is installed in an environment of its own only, so its types are unknown here.
# mypy: disable-error-code="import-not-found, import-untyped, misc"

from __future__ import annotations

import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from recpack.algorithms import MultVAE, RecVAE
from recpack.util import get_top_K_ranks
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest


class Timed:
    """Puts a clock around the training epoch (of RecVAE: set) of the RecPack class behind it."""

    clock: contest.EpochClock
    train_loss: list[float]

    def _train_epoch(self, train_data: sparse.csr_matrix) -> list[float]:
        with self.clock.epoch():
            losses: list[float] = super()._train_epoch(train_data)
        self.train_loss.append(float(np.mean(losses)))
        return losses


class TimedMultVAE(Timed, MultVAE):
    """RecPack's MultVAE, timed."""


class TimedRecVAE(Timed, RecVAE):
    """RecPack's RecVAE, timed."""


def place(matrix: sparse.csr_matrix, rows: np.ndarray, users: int) -> sparse.csr_matrix:
    """Put the rows of `matrix` at `rows` of a matrix with `users` rows."""
    coo = matrix.tocoo()
    shape = (users, matrix.shape[1])
    return sparse.csr_matrix((coo.data, (np.asarray(rows)[coo.row], coo.col)), shape)


def recommend(model: MultVAE | RecVAE, histories: sparse.csr_matrix) -> sparse.csr_matrix:
    """Ranks 1..100 of unseen items, in the steps of RecPack's pipeline: predict, remove, rank."""
    # Only with this limit on does prediction fit in memory; the seen items may fill it up.
    model.predict_topK = contest.K + int(np.diff(histories.indptr).max())
    prediction = model.predict(histories)
    prediction = prediction - prediction.multiply(histories)
    prediction.eliminate_zeros()
    return get_top_K_ranks(prediction.tocsr(), contest.K)


def ranked_lists(ranks: sparse.csr_matrix) -> np.ndarray:
    """Turn a matrix of ranks into rows of items, best first, -1 where a list is short."""
    coo = ranks.tocoo()
    lists = np.full((ranks.shape[0], contest.K), -1)
    lists[coo.row, coo.data.astype(int) - 1] = coo.col
    return lists


def build_model(options: contest.Options, data: contest.BenchmarkData) -> MultVAE | RecVAE:
    """Make the model with the task's settings; the rest is left at RecPack's defaults."""
    shared = {
        "batch_size": contest.BATCH,
        "max_epochs": options.epochs,
        "seed": options.seed,
        "dim_bottleneck_layer": contest.LATENT,
        "dim_hidden_layer": contest.HIDDEN,
        "dropout": contest.DROPOUT,
        "keep_last": True,  # with torch >= 2.6 it cannot load its best model
        "predict_topK": contest.K,
    }
    if options.model == "recvae":
        return TimedRecVAE(
            learning_rate=contest.RECVAE_LEARNING_RATE,
            gamma=contest.GAMMA,
            n_enc_epochs=contest.ENCODER_EPOCHS,
            n_dec_epochs=contest.DECODER_EPOCHS,
            **shared,
        )
    return TimedMultVAE(
        learning_rate=contest.LEARNING_RATE,
        max_beta=contest.ANNEAL_CAP,
        # Its ramp is step / anneal_steps with no cap before the end, then the cap.
        anneal_steps=contest.anneal_steps(options, data),
        **shared,
    )


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__, ("multi-vae", "recvae"))
    logging.getLogger("recpack").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    data = contest.load(options)
    users = data.train.shape[0]
    total = users + data.fold_in.shape[0]
    kept = min(users, contest.steps_to_run(options, data) * contest.BATCH)
    train = place(data.train[:kept], np.arange(kept), total)
    one = [place(part[:1], np.array([users]), total) for part in (data.fold_in, data.held_out)]
    model = build_model(options, data)
    model.clock = clock = contest.EpochClock.of(options, data)
    model.train_loss = []
    setup_seconds = time.perf_counter() - start
    model.fit(train, tuple(one))
    train_peak = contest.peak_rss_mb()
    validation = place(data.fold_in, np.arange(users, total), total)
    histories = place(data.train[data.topk_users], data.topk_users, total)
    contest.write_result(
        options,
        data,
        library=f"RecPack {options.model}",
        version=version("recpack"),
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        train_loss=model.train_loss,
        ranked=ranked_lists(recommend(model, validation))[users:],
        topk_seconds=contest.median_seconds(lambda: recommend(model, histories)),
    )


if __name__ == "__main__":
    main()
