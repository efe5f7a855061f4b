"""How many users two items share: XᵀX of the binary interactions, a block of rows at a time."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from coterie.data.ids import NO_ITEM
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.ranking import top_k

ENTRIES_AT_ONCE = 1 << 24  # of float32: 64 MiB


class Cooccurrence:
    """XᵀX of U × I interactions; counts are exact in float32 up to 2²⁴ users.

    Parameters
    ----------
    data
        The training users.

    Raises
    ------
    DataError
        There are no interactions.
    """

    def __init__(self, data: Interactions) -> None:
        if data.nnz == 0:
            raise DataError(f"{data.name!r} holds no interactions, so there is nothing to learn.")
        self.n_items = data.n_items
        self.counts = data.item_counts().astype(np.float32)  # [I], the diagonal
        self._users = _narrow(data.to_scipy())  # [U, I]
        self._items = _narrow(self._users.T.tocsr())  # [I, U]

    def rows(self, start: int, stop: int) -> sp.csr_array:
        """Rows ``start … stop − 1``, ``[stop − start, I]``, the diagonal included."""
        return self._items[start:stop] @ self._users

    def below(self, start: int, stop: int) -> np.ndarray:
        """Columns ``start … stop − 1`` from row ``start`` on, dense ``[I − start, stop − start]``.

        By symmetry these blocks are all there is to know, for half the work.
        """
        block = self._items[start:stop].T.tocsr()
        dense: np.ndarray = (self._items[start:] @ block).toarray()
        return dense

    def blocks(self) -> list[tuple[int, int]]:
        """``(start, stop)`` of blocks that are held dense: 64 MiB each, and eight or more."""
        size = min(max(ENTRIES_AT_ONCE // self.n_items, 1), -(-self.n_items // 8))
        return [(at, min(at + size, self.n_items)) for at in range(0, self.n_items, size)]

    def nearest(
        self, rows: sp.csr_array, start: int, n: int, shrinkage: float
    ) -> tuple[Tensor, Tensor]:
        """The n items closest to each item of a block of rows.

        Parameters
        ----------
        rows
            What :meth:`rows` gave.
        start
            Its first item.
        n
            How many; at most all others.
        shrinkage
            Added to the denominator of the cosine, in users.

        Returns
        -------
        tuple
            Items, int64 ``[b, n]``, best first, −1 where fewer share a user; and their cosines
            ``c_ij / (√(c_i c_j) + shrinkage)``, float32 ``[b, n]``.
        """
        norms = np.sqrt(self.counts)
        each = np.repeat(norms[start : start + rows.shape[0]], np.diff(rows.indptr))
        cosines = rows.data / (each * norms[rows.indices] + np.float32(shrinkage))
        dense = torch.full(rows.shape, -torch.inf)
        dense[
            torch.from_numpy(np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))),
            torch.from_numpy(rows.indices.astype(np.int64)),
        ] = torch.from_numpy(cosines)
        dense[:, start : start + rows.shape[0]].fill_diagonal_(-torch.inf)
        best = top_k(dense, min(n, max(self.n_items - 1, 1)))
        return best.indices, best.scores.masked_fill(best.indices == NO_ITEM, 0)


def _narrow(matrix: sp.csr_array) -> sp.csr_array:
    """The matrix with 32-bit indices where they suffice: half the memory, and faster products."""
    if max(matrix.nnz, *matrix.shape) < 2**31:
        matrix.indices = matrix.indices.astype(np.int32)
        matrix.indptr = matrix.indptr.astype(np.int32)
    return matrix
