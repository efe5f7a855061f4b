"""Histories for tests: as lists, as interactions, as batches and as dense matrices."""

import numpy as np
import torch

from coterie.data.batches import UserBatch, user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions


def interactions_of(histories: list[list[int]], n_items: int) -> Interactions:
    """Interactions whose row ``u`` is ``histories[u]``; external ids are the indices."""
    lengths = [len(history) for history in histories]
    return Interactions(
        np.cumsum([0, *lengths]),
        np.array([item for history in histories for item in sorted(history)], dtype=np.int32),
        IdMap(list(range(len(histories)))),
        IdMap(list(range(n_items))),
    ).check()


def random_histories(
    n_users: int, n_items: int, *, seed: int, longest: int | None = None
) -> list[list[int]]:
    """Histories of 1 … ``longest`` items, except user 0, whose history is empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, (longest or n_items) + 1, n_users)
    lengths[0] = 0
    return [sorted(rng.choice(n_items, n, replace=False).tolist()) for n in lengths]


def batch_of(histories: list[list[int]], n_items: int) -> UserBatch:
    """All users in one batch."""
    return user_batch(interactions_of(histories, n_items), np.arange(len(histories)))


def dense_of(histories: list[list[int]], n_items: int) -> torch.Tensor:
    """The binary matrix, float32 ``[B, I]``, written entry by entry."""
    matrix = torch.zeros(len(histories), n_items)
    for user, history in enumerate(histories):
        for item in history:
            matrix[user, item] = 1
    return matrix
