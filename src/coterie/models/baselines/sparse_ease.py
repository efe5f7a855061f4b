"""EASE whose weights are restricted to each item's nearest items: for large catalogues."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.memory import require_bytes
from coterie.models.baselines.cooccurrence import Cooccurrence
from coterie.models.baselines.item_weights import SparseItemWeights
from coterie.models.model import BaselineConfig
from coterie.spaces import Choice, Range, SearchSpace

SYSTEMS_AT_ONCE = 1 << 22  # entries of local XᵀX: some 100 MiB with the search for them
BYTES_PER_PAIR = 4 + 4  # column and count


class SparseEaseConfig(BaselineConfig):
    """Linear weights of each item's neighbours."""

    name: ClassVar[str] = "sparse-ease"
    search: ClassVar[SearchSpace] = {
        "neighbours": Choice((50, 100, 200)),
        "shrinkage": Range(0.1, 1000.0, log=True),
        "l2": Range(10.0, 1e4, log=True),
    }
    neighbours: PositiveInt = Field(
        100, description="Items whose weights for an item may differ from 0."
    )
    shrinkage: NonNegativeFloat = Field(
        10.0, description="Of the cosine that chooses them; as in item-knn."
    )
    l2: PositiveFloat = Field(500.0, description="λ, added to the diagonal of XᵀX, in users.")


def fit(
    data: Interactions, config: SparseEaseConfig, progress: Callable[[int, int], None]
) -> SparseItemWeights:
    """Minimise EASE's ``‖X − XW‖² + l2 ‖W‖²`` where column j of W may use N items only.

    These are the N items N(j) with the largest cosines to j. The columns are N × N systems of
    their own, ``w_j = (G[N(j), N(j)] + l2)⁻¹ G[N(j), j]`` with ``G = XᵀX``, solved in batches; with
    all other items as neighbours it is EASE itself. It takes 8 bytes per (ordered) pair of items
    that share a user, 16 while they are gathered.

    Raises
    ------
    ConfigError
        The pairs do not fit into the memory that is free, or ``l2`` is too small for float32.

    References
    ----------
    Our restriction of Steck, WWW 2019, arXiv 1905.03375; compare the sparse approximation in
    Steck, NeurIPS 2019, arXiv 1910.09645.
    """
    shared = Cooccurrence(data)
    n_items = data.n_items
    blocks, items = [], []
    for start, stop in shared.blocks():
        rows = shared.rows(start, stop)
        rows.sort_indices()
        index, _ = shared.nearest(rows, start, config.neighbours, config.shrinkage)
        items.append(index.sort(1).values.numpy())
        blocks.append(rows)
        _require(sum(block.nnz for block in blocks), n_items)
        progress(stop, 2 * n_items)
    gram = sp.vstack(blocks, format="csr")
    del blocks, rows
    neighbours = np.concatenate(items)
    weights = np.zeros(neighbours.shape, dtype=np.float32)
    size = max(SYSTEMS_AT_ONCE // neighbours.shape[1] ** 2, 1)
    for start in range(0, n_items, size):
        targets = np.arange(start, min(start + size, n_items))
        weights[targets] = _columns(gram, targets, neighbours[targets], config.l2)
        progress(n_items + targets[-1] + 1, 2 * n_items)
    return SparseItemWeights.of_columns(config, neighbours, weights)


def _columns(gram: sp.csr_array, targets: np.ndarray, items: np.ndarray, l2: float) -> np.ndarray:
    """The weights ``[b, n]`` of the items ``[b, n]`` for the targets ``[b]``; 0 for item −1."""
    n, there = items.shape[1], items >= 0
    known = np.maximum(items, 0)
    system = np.zeros((len(items), n, n), dtype=np.float32)
    row, column = np.tril_indices(n)  # in rising order, so that the search stays in cache
    shared = gram[known[:, row], known[:, column]].toarray()
    system[:, row, column] = shared * (there[:, row] & there[:, column])
    system[:, np.arange(n), np.arange(n)] += np.float32(l2)
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(system))  # the lower triangle
    if bool(failed.any()):
        raise ConfigError(
            f"sparse-ease.l2={l2} is too small for these counts: a system cannot be solved in "
            "float32. Raise it."
        )
    right = gram[known, np.broadcast_to(targets[:, None], known.shape)].toarray() * there
    weights: np.ndarray = torch.cholesky_solve(torch.from_numpy(right)[..., None], factor).numpy()
    return weights[..., 0]


def _require(n_pairs: int, n_items: int) -> None:
    require_bytes(
        n_pairs * BYTES_PER_PAIR,
        f"sparse-ease on {n_items:,} items: joining {n_pairs:,} or more pairs that share a user",
        "Use item-knn, or leave out rare items or users with very long histories.",
    )
