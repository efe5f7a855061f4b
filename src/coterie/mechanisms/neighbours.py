"""The nearest users of every user, found in blocks: no U × U matrix is built."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.distances import deviations
from coterie.models.posterior import Posterior

SPARE = 16  # candidates beyond k: two distances closer than rounding must not lose a neighbour
COLUMNS_AT_ONCE = 8192
WIDE = 64  # beyond this width products take longer than the search, so they are in float32
BLOCK_BYTES = 64e6  # of distances at once


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest users of every user, the nearest first.

    Parameters
    ----------
    indices
        int64 ``[U, k]``; ties by the lower index; nobody is their own neighbour.
    distances
        W2, float64 ``[U, k]``, in latent units.
    """

    indices: Tensor
    distances: Tensor


def nearest_codes(codes: Tensor, k: int) -> np.ndarray:
    """The k nearest others of each code by Euclidean distance, int64 ``[N, k]``, unordered.

    Among equally near ones, such as users whose masks left nothing, the choice is arbitrary.

    Parameters
    ----------
    codes
        float32 ``[N, K]`` on the CPU; N > k.
    """
    centred = codes - codes.mean(0)  # distances stay, and cancel less
    squares = centred.square().sum(1)
    rows = max(1, int(BLOCK_BYTES // (4 * len(codes))))
    found = []
    for start in range(0, len(codes), rows):
        block = centred[start : start + rows]
        # ‖a − b‖² without ‖a‖², which is the same for all b
        distances = torch.addmm(squares, block, centred.T, alpha=-2)
        at = torch.arange(len(block))
        distances[at, start + at] = torch.inf
        found.append(distances.topk(k, dim=1, largest=False, sorted=False).indices)
    return torch.cat(found).numpy()


@torch.no_grad()
def nearest_users(posterior: Posterior, k: int, *, block: int = 1024) -> Neighbours:
    """The k nearest users of every user by W2, found in blocks: no U × U matrix is built.

    Exact: candidates come from products of blocks (float32 where K > 32), and are then ordered by
    distances in float64. Where rounding could have hidden a neighbour, such as among many equal
    users, that user's distances to all others are computed (slow if there are thousands of equal
    users). Takes O(U² K) time, and memory for ``block`` × 8192 products besides the points.

    Parameters
    ----------
    posterior
        ``[U, K]``.
    k
        1 … U − 1.
    block
        Users at once.

    Raises
    ------
    ConfigError
        ``k`` or ``block`` is out of range.
    DataError
        The posterior has values that are not finite.
    """
    points = torch.cat([posterior.mu, deviations(posterior)], 1)
    n_users, width = points.shape
    if not 1 <= k < n_users:
        raise ConfigError(f"k must be 1 … {n_users - 1} for {n_users} users, got {k}.")
    if block < 1:
        raise ConfigError(f"block must be at least 1, got {block}.")
    if not points.isfinite().all():
        raise DataError("The posterior holds NaN or infinity; the model's training diverged.")
    narrow = width <= WIDE or torch.get_float32_matmul_precision() != "highest"
    centred = points.double() if narrow else points
    centred = centred - centred.mean(0)  # small values: less rounding
    squares = centred.square().sum(1)
    parts = []
    for start in range(0, n_users, block):
        rows = torch.arange(start, min(start + block, n_users), device=points.device)
        scores, found = _candidates(centred, squares, rows, min(k + SPARE, n_users - 1))
        parts.append(_settled(points, squares, width, rows, scores, found, k))
    return Neighbours(
        torch.cat([part.indices for part in parts]), torch.cat([part.distances for part in parts])
    )


def _candidates(points: Tensor, squares: Tensor, rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The ``kept`` columns of least ``‖c‖² − 2 q·c`` per row, merged block by block."""
    scores = torch.empty(len(rows), 0, dtype=points.dtype, device=points.device)
    found = torch.empty(len(rows), 0, dtype=torch.int64, device=points.device)
    for start in range(0, len(points), COLUMNS_AT_ONCE):
        columns = points[start : start + COLUMNS_AT_ONCE]
        stop = start + len(columns)
        products = torch.addmm(squares[start:stop], points[rows], columns.T, alpha=-2)
        own = (rows >= start) & (rows < stop)
        products[own, rows[own] - start] = torch.inf
        best, at = products.topk(min(kept, len(columns)), dim=1, largest=False)
        scores, found = torch.cat([scores, best], 1), torch.cat([found, at + start], 1)
        scores, order = scores.topk(min(kept, scores.shape[1]), dim=1, largest=False)
        found = found.gather(1, order)
    return scores, found


def _settled(
    points: Tensor,
    squares: Tensor,
    width: int,
    rows: Tensor,
    scores: Tensor,
    found: Tensor,
    k: int,
) -> Neighbours:
    """The k best candidates by exact distance; all users are looked at where that is not sure."""
    found = found.sort(1).values  # with a stable sort below: ties by index
    own = points[rows].double()
    distances = torch.stack([(own - points[at].double()).norm(dim=1) for at in found.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    distances, found = distances[:, :k].clone(), found.gather(1, order)[:, :k].clone()
    if scores.shape[1] < len(points) - 1:
        # Whoever is no candidate has at least the last score, up to the rounding of a product.
        norms = squares.double().sqrt()
        error = (width + 8) * torch.finfo(scores.dtype).eps * (norms[rows] + norms.max()) ** 2
        beyond = scores.amax(1).double() + squares[rows].double() - error
        for at in (distances[:, -1] ** 2 >= beyond).nonzero().ravel():
            distances[at], found[at] = _by_all(points, rows[at], k)
    return Neighbours(found, distances)


def _by_all(points: Tensor, row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    own = points[row].double()
    chunks = torch.split(points, COLUMNS_AT_ONCE)
    distances = torch.cat([(own - chunk.double()).norm(dim=1) for chunk in chunks])
    distances[row] = torch.inf
    distances, order = distances.sort(stable=True)
    return distances[:k], order[:k]
