"""Invented interactions of a given size, to measure what the real ones will cost."""

import numpy as np
import polars as pl

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions

SPREAD = 0.8  # of log(history length): as uneven as MovieLens
TAIL = 0.8  # weight of an item = rank^-TAIL


def invented(users: int, items: int, interactions: int, *, seed: int = 0) -> Interactions:
    """U × I interactions, nearly as many as asked for, with a long tail of users and items.

    Parameters
    ----------
    users, items
        U and I, exactly.
    interactions
        About how many in all; draws that repeat a pair are dropped.
    """
    generator = np.random.default_rng(seed)
    lengths = generator.lognormal(0.0, SPREAD, users)
    lengths = np.clip(lengths * interactions / lengths.sum(), 5, items / 2).astype(np.int64)
    weight = np.arange(1, items + 1, dtype=np.float64) ** -TAIL
    bounds = np.cumsum(weight / weight.sum())
    drawn = np.searchsorted(bounds, generator.random(int(lengths.sum())))
    keys = np.unique(np.repeat(np.arange(users), lengths) * items + np.minimum(drawn, items - 1))
    counts = np.bincount(keys // items, minlength=users)
    return Interactions(
        np.concatenate([[0], np.cumsum(counts)]),
        (keys % items).astype(np.int32),
        IdMap(pl.Series("id", np.arange(users))),
        IdMap(pl.Series("id", np.arange(items))),
        name="invented",
    )
