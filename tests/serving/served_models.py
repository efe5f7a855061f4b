"""A small model whose weights are random but fixed, with titles of which one is hostile."""

from pathlib import Path

import numpy as np
import polars as pl

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.histories import from_pairs
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.recommender import Recommender

N_ITEMS, N_USERS = 60, 80
FIRST = 1000  # item ids are 1000 … 1059
SCRIPT = "<script>alert('title')</script>"


def small_model(seed: int = 0, ids: IdMap | None = None) -> Recommender:
    """A Multi-VAE 16-8-16 over 60 items."""
    ids = ids or IdMap(range(FIRST, FIRST + N_ITEMS))
    config = ModelConfig(hidden_dims=(16,), latent_dim=8)
    titles = [SCRIPT, *(f"Title {place}" for place in range(1, N_ITEMS))]
    return Recommender(
        VAE(config, N_ITEMS).initialized(seed),
        ids,
        np.arange(N_ITEMS, 0, -1),  # the first item is the most popular one
        items=pl.DataFrame({"item_id": ids.ids, "title": titles}),
    )


def small_community() -> Interactions:
    """80 users, ids 0 … 79, with 5 to 14 items each; all users have timestamps."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 15, N_USERS)
    users = np.repeat(np.arange(N_USERS), lengths)
    items = np.concatenate([rng.choice(N_ITEMS, length, replace=False) for length in lengths])
    ids = IdMap(range(FIRST, FIRST + N_ITEMS))
    return from_pairs(users, items, IdMap(range(N_USERS)), ids)


def save(path: Path, seed: int = 0) -> Path:
    """The model of a seed as a folder, in place of what is there."""
    return small_model(seed).save(path, overwrite=True)
