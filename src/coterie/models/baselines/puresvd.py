"""PureSVD: the best approximation of the interactions by a matrix of low rank."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from coterie.config import HIGHEST_SEED
from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.models.model import BaselineConfig, Model, Similarity
from coterie.models.tables import row_sums
from coterie.spaces import Range, SearchSpace


class PureSvdConfig(BaselineConfig):
    """Truncated singular value decomposition."""

    name: ClassVar[str] = "puresvd"
    search: ClassVar[SearchSpace] = {"factors": Range(5, 300, log=True)}
    factors: PositiveInt = Field(50, description="K, the rank.")
    seed: int = Field(
        0, ge=0, le=HIGHEST_SEED, description="Determines where the iteration begins."
    )


class PureSvd(Model):
    """Scores ``x V Vᵀ`` with the K leading right singular vectors V ``[I, K]`` of the data."""

    similarity: ClassVar[Similarity | None] = "factors"
    factors: Tensor

    def __init__(self, config: PureSvdConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("factors", torch.empty(n_items, config.factors))

    def forward(self, batch: UserBatch) -> Tensor:
        """Scores ``[B, I]``."""
        return row_sums(self.factors, batch) @ self.factors.T

    def item_table(self) -> Tensor:
        """V, ``[I, K]``."""
        return self.factors


def fit(data: Interactions, config: PureSvdConfig, progress: Callable[[int, int], None]) -> PureSvd:
    """Compute the K leading singular vectors by Lanczos iteration, in float64.

    Raises
    ------
    ConfigError
        ``factors`` is not below the numbers of users and items.

    References
    ----------
    Cremonesi et al., RecSys 2010, section 3.2.
    """
    from scipy.sparse.linalg import svds  # takes its time

    least = min(data.n_users, data.n_items)
    if config.factors >= least:
        raise ConfigError(
            f"puresvd.factors must be below the {data.n_users} users and the {data.n_items} items, "
            f"got {config.factors}."
        )
    matrix = data.to_scipy().astype(np.float64)
    begin = np.random.default_rng(config.seed).standard_normal(least)
    _, _, right = svds(matrix, k=config.factors, v0=begin, solver="arpack")
    model = PureSvd(config, data.n_items)
    model.factors.copy_(torch.from_numpy(right[::-1].T.copy()))  # the largest first
    progress(1, 1)
    return model
