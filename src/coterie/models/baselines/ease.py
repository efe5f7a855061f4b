"""EASE: a linear model of all items from all others, in closed form."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.memory import require_bytes
from coterie.models.baselines.cooccurrence import ENTRIES_AT_ONCE, Cooccurrence
from coterie.models.model import BaselineConfig, Model, Similarity
from coterie.models.tables import row_sums
from coterie.spaces import Range, SearchSpace

FLOAT32 = 4  # bytes
MIRRORED_AT_ONCE = 128  # rows and columns: both blocks stay in cache (measured)


class EaseConfig(BaselineConfig):
    """Linear weights between all pairs of items."""

    name: ClassVar[str] = "ease"
    search: ClassVar[SearchSpace] = {"l2": Range(10.0, 1e4, log=True)}
    l2: PositiveFloat = Field(500.0, description="λ, added to the diagonal of XᵀX, in users.")


class Ease(Model):
    """Scores ``x W`` with a dense W ``[I, I]``."""

    similarity: ClassVar[Similarity | None] = "weights"
    weights: Tensor

    def __init__(self, config: EaseConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("weights", torch.empty(n_items, n_items))

    def forward(self, batch: UserBatch) -> Tensor:
        """Scores ``[B, I]``: the sum of W's rows over each history."""
        return row_sums(self.weights, batch)


def fit(data: Interactions, config: EaseConfig, progress: Callable[[int, int], None]) -> Ease:
    """Minimise ``‖X − XW‖² + l2 ‖W‖²`` with a diagonal of zeros.

    With ``P = (XᵀX + l2)⁻¹`` the solution is ``W_ij = −P_ij / P_jj`` (equation 8). One float32
    matrix ``[I, I]`` is all that is held: counts, factor, inverse and weights take its place in
    turn.

    Raises
    ------
    ConfigError
        The matrix does not fit into the memory that is free, or ``l2`` is too small for float32.

    References
    ----------
    Steck, WWW 2019, arXiv 1905.03375.
    """
    n_items = data.n_items
    require_bytes(
        (n_items**2 + 2 * ENTRIES_AT_ONCE) * FLOAT32,
        f"ease on {n_items:,} items: a matrix of {n_items:,} × {n_items:,}",
        "Use sparse-ease or item-knn, or leave out rare items.",
    )
    shared = Cooccurrence(data)
    matrix = np.empty((n_items, n_items), dtype=np.float32)
    for start, stop in shared.blocks():
        matrix[start:, start:stop] = shared.below(start, stop)
        progress(stop, 2 * n_items)
    weights_(matrix, config.l2)
    progress(2 * n_items, 2 * n_items)
    with torch.device("meta"):
        model = Ease(config, n_items)
    model.weights = torch.from_numpy(matrix)
    return model


def weights_(matrix: np.ndarray, l2: float) -> None:
    """Replace XᵀX ``[I, I]`` (float32; its lower triangle and diagonal count) by EASE's weights.

    Raises
    ------
    ConfigError
        XᵀX + l2 is not positive definite in float32.
    """
    from scipy.linalg import lapack  # takes its time

    n_items = len(matrix)
    diagonal = np.arange(n_items)
    matrix[diagonal, diagonal] += np.float32(l2)
    # LAPACK counts columns first: its upper triangle of the transpose is our lower one, in place.
    factor, failed = lapack.spotrf(matrix.T, lower=0, clean=0, overwrite_a=1)
    if not failed:
        inverse, failed = lapack.spotri(factor, lower=0, overwrite_c=1)
    if failed:
        raise ConfigError(
            f"ease.l2={l2} is too small for these counts: XᵀX + l2 cannot be inverted in float32. "
            "Raise it."
        )
    assert np.shares_memory(inverse, matrix)
    _mirror(matrix)
    matrix /= -matrix[diagonal, diagonal]
    matrix[diagonal, diagonal] = 0


def _mirror(matrix: np.ndarray) -> None:
    """Copy the lower triangle to the upper one."""
    for start in range(0, len(matrix), MIRRORED_AT_ONCE):
        stop = start + MIRRORED_AT_ONCE
        for left in range(0, start, MIRRORED_AT_ONCE):
            right = left + MIRRORED_AT_ONCE
            matrix[left:right, start:stop] = matrix[start:stop, left:right].T
        block = matrix[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
