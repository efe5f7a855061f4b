"""Cornac VAECF, through `VAECF.fit` on a Cornac `Dataset`, scored user by user as it ships.

An epoch's time runs from Cornac's request for the first batch to the end of the last step. As
shipped it has no dropout, no L2 normalisation, no shuffling and no annealing: beta is the cap from
the first step, and `--max-steps` times the first users in order.
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

import cornac
import numpy as np
import torch
from cornac.data import Dataset
from cornac.models import VAECF

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


def main() -> None:
    """Train, evaluate, write the result."""
    options = contest.parse_options(__doc__)
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    data = contest.load(options)
    train_set = build(data)
    train_set.clock = clock = contest.EpochClock.of(options, data)
    train_set.steps = contest.steps_to_run(options, data)
    model = VAECF(
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
    _ = train_set.matrix  # built lazily: keep it out of the first epoch
    setup_seconds = time.perf_counter() - start
    model.fit(train_set)
    train_peak = contest.peak_rss_mb()

    def recommend() -> list[list[int]]:
        return [
            model.recommend(user, k=contest.K, remove_seen=True, train_set=train_set)
            for user in data.topk_users.tolist()
        ]

    topk_seconds = contest.median_seconds(recommend)
    # Cornac scores users by their row of `r_mat` only: new users need the matrix to be exchanged.
    model.r_mat = data.fold_in
    scores = np.stack([model.score(user) for user in range(data.fold_in.shape[0])])
    contest.write_result(
        options,
        data,
        library="Cornac VAECF",
        version=cornac.__version__,
        framework=f"torch {torch.__version__}",
        clock=clock,
        setup_seconds=setup_seconds,
        train_peak_rss_mb=train_peak,
        ranked=contest.top_k(scores, data.fold_in),
        topk_seconds=topk_seconds,
        notes={"beta": "constant 0.2", "missing": "dropout, normalisation, shuffling, annealing"},
    )


if __name__ == "__main__":
    main()
