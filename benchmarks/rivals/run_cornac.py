"""Cornac VAECF or RecVAE, through `fit` on a Cornac `Dataset`, scored user by user as it ships.

An epoch's time runs from Cornac's request for the first batch to the end of the last step.

VAECF as shipped has no dropout, no L2 normalisation, no shuffling and no annealing: beta is the cap
from the first step, and `--max-steps` times the first users in order. RecVAE as shipped draws z
with noise of std 0.01 times its own; never leaves training mode, so that it recommends from
histories of which half is dropped, with noise (NDCG in evaluation mode is in `notes`); and after
each set it evaluates all training users one by one, for its progress bar, which is left out here.
"""

# The library is installed in an environment of its own only, so its types are unknown here.
# mypy: disable-error-code="import-not-found, import-untyped, misc"

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cornac
import numpy as np
import torch
from cornac.data import Dataset
from cornac.models import VAECF, RecVAE

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest


class TimedDataset(Dataset):
    """A Cornac data set whose user iterator, one pass of which is one epoch, is timed."""

    clock: contest.EpochClock
    steps: int

    def user_iter(self, batch_size: int = 1, shuffle: bool = False) -> Iterator[np.ndarray]:
        """Yield the batches of the library; the time includes the work done on each."""
        with self.clock.epoch():
            yield from islice(super().user_iter(batch_size, shuffle), self.steps)


def build(data: contest.BenchmarkData) -> TimedDataset:
    """Wrap the training matrix with identity id maps (spares Cornac its loop over triples)."""
    users, items = data.train.shape
    matrix = data.train.tocoo()
    return TimedDataset(
        users,
        items,
        OrderedDict((u, u) for u in range(users)),
        OrderedDict((i, i) for i in range(items)),
        (matrix.row.astype(int), matrix.col.astype(int), matrix.data),
        seed=0,
    )


def build_model(options: contest.Options) -> VAECF | RecVAE:
    """Make the model with the task's settings; the rest is left at Cornac's defaults."""
    if options.model == "recvae":
        return RecVAE(
            hidden_dim=contest.HIDDEN,
            latent_dim=contest.LATENT,
            batch_size=contest.BATCH,
            gamma=contest.GAMMA,
            lr=contest.RECVAE_LEARNING_RATE,
            n_epochs=options.epochs,
            n_enc_epochs=contest.ENCODER_EPOCHS,
            n_dec_epochs=contest.DECODER_EPOCHS,
            seed=options.seed,
            use_gpu=False,
        )
    return VAECF(
        k=contest.LATENT,
        autoencoder_structure=[contest.HIDDEN],
        act_fn="tanh",
        likelihood="mult",
        n_epochs=options.epochs,
        batch_size=contest.BATCH,
        learning_rate=contest.LEARNING_RATE,
        beta=contest.ANNEAL_CAP,
        seed=options.seed,
    )


def score_new_users(model: VAECF | RecVAE, data: contest.BenchmarkData) -> np.ndarray:
    """Score users unseen in training, whom Cornac cannot, by exchanging the matrix it reads."""
    if isinstance(model, RecVAE):
        model.mydata = SimpleNamespace(matrix=data.fold_in)
    else:
        model.r_mat = data.fold_in
    return np.stack([model.score(user) for user in range(data.fold_in.shape[0])])


def notes(model: VAECF | RecVAE, data: contest.BenchmarkData) -> dict[str, Any]:
    """What differs as shipped; changes a RecVAE to evaluation mode."""
    if not isinstance(model, RecVAE):
        missing = "dropout, normalisation, shuffling, annealing"
        return {"beta": "constant 0.2", "missing": missing}
    model.recvae_model.eval()
    ranked = contest.top_k(score_new_users(model, data), data.fold_in)
    return {
        "noise": "std 0.01",
        "prediction": "in training mode, as shipped",
        "ndcg100_in_evaluation_mode": contest.ndcg_at_k(ranked, data.held_out),
    }


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__, ("multi-vae", "recvae"))
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    data = contest.load(options)
    train_set = build(data)
    train_set.clock = clock = contest.EpochClock.of(options, data)
    train_set.steps = contest.steps_to_run(options, data)
    model = build_model(options)
    _ = train_set.matrix  # built lazily: keep it out of the first epoch
    setup_seconds = time.perf_counter() - start
    with mock.patch("cornac.eval_methods.ranking_eval", return_value=[[0.0]]):
        model.fit(train_set)
    train_peak = contest.peak_rss_mb()
    if options.model == "recvae":
        clock.join(contest.ENCODER_EPOCHS + contest.DECODER_EPOCHS)

    def recommend() -> list[list[int]]:
        return [
            model.recommend(user, k=contest.K, remove_seen=True, train_set=train_set)
            for user in data.topk_users.tolist()
        ]

    topk_seconds = contest.median_seconds(recommend)
    contest.write_result(
        options,
        data,
        library=f"Cornac {type(model).__name__}",
        version=cornac.__version__,
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        ranked=contest.top_k(score_new_users(model, data), data.fold_in),
        topk_seconds=topk_seconds,
        notes=notes(model, data),
    )


if __name__ == "__main__":
    main()
