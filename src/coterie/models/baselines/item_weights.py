"""Sparse weights between items: what each item of a history adds to the scores of a few others."""

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.errors import DataError
from coterie.models.model import BaselineConfig, Model, Similarity

TERMS_AT_ONCE = 1 << 22  # of sums: 80 MiB


class SparseItemWeights(Model):
    """Scores ``x W`` with a sparse W ``[I, I]`` in CSR form; row i is what item i adds.

    Parameters
    ----------
    config
        The settings of the baseline whose W it is.
    n_items
        I.
    nnz
        Entries of W.
    """

    similarity: ClassVar[Similarity | None] = "weights"
    sized_by: ClassVar[tuple[str, ...]] = ("nnz",)
    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, config: BaselineConfig, n_items: int, nnz: int) -> None:
        super().__init__(config, n_items)
        self.nnz = nnz
        self.register_buffer("indptr", torch.empty(n_items + 1, dtype=torch.int64))
        self.register_buffer("indices", torch.empty(nnz, dtype=torch.int32))
        self.register_buffer("weights", torch.empty(nnz))

    @classmethod
    def of_columns(
        cls, config: BaselineConfig, items: np.ndarray, weights: np.ndarray
    ) -> "SparseItemWeights":
        """The model whose W has in column j the given ``weights`` of the given ``items``.

        Parameters
        ----------
        config
            As above.
        items, weights
            int64 and float32 ``[I, n]``, by column; −1 stands for no item.
        """
        n_items = len(items)
        column, place = np.nonzero((items >= 0) & (weights != 0))
        entries = (weights[column, place], (items[column, place], column))
        matrix = sp.coo_array(entries, shape=(n_items, n_items)).tocsr()
        matrix.sort_indices()
        model = cls(config, n_items, matrix.nnz)
        model.indptr.copy_(torch.from_numpy(matrix.indptr))
        model.indices.copy_(torch.from_numpy(matrix.indices))
        model.weights.copy_(torch.from_numpy(matrix.data))
        return model

    def forward(self, batch: UserBatch) -> Tensor:
        """Scores ``[B, I]``: the sum of W's rows over each history."""
        scores = self.weights.new_zeros(batch.n_users * self.n_items)
        first = self.indptr[batch.indices]
        lengths = self.indptr[batch.indices + 1] - first
        target = batch.rows * self.n_items
        ends = lengths.cumsum(0)
        for part in _parts(ends):
            n, last = lengths[part], ends[part]
            shift = first[part] - (last - n) + (last[0] - n[0])
            entries = torch.arange(int(n.sum()), device=n.device) + shift.repeat_interleave(n)
            place = target[part].repeat_interleave(n) + self.indices[entries]
            scores.index_add_(0, place, self.weights[entries])
        return scores.view(batch.n_users, self.n_items)

    def check(self) -> None:
        """Raise :class:`DataError` unless the arrays are a CSR matrix ``[I, I]``."""
        indptr, indices = self.indptr, self.indices
        if int(indptr[0]) != 0 or int(indptr[-1]) != self.nnz or bool((indptr.diff() < 0).any()):
            raise DataError(f"indptr must rise from 0 to the {self.nnz} entries.")
        if self.nnz and (int(indices.min()) < 0 or int(indices.max()) >= self.n_items):
            raise DataError(f"indices must lie in 0 … {self.n_items - 1}.")


def _parts(ends: Tensor) -> Iterator[slice]:
    """Slices of the history's entries with about ``TERMS_AT_ONCE`` terms each."""
    if len(ends) == 0:
        return
    steps = torch.arange(1, int(ends[-1]) // TERMS_AT_ONCE + 1, device=ends.device) * TERMS_AT_ONCE
    bounds = [0, *torch.searchsorted(ends, steps).tolist(), len(ends)]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield slice(start, stop)
