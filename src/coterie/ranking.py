"""The k best items per row of scores: exact, ties by the lower item index, without a full sort."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.data.ids import NO_ITEM
from coterie.errors import ConfigError, DivergenceError

TYPES = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK_SIZES = (
    32,
    8,
)  # maxima over 32 contiguous floats vectorise best; 8 for few items (measured)
_LEAST_BLOCKS = 2  # blocks pay from 2·k of them on (measured)
_MANY_TIES = 4  # times k candidates per row: from there on it pays to drop ties before sorting
_NOTHING = torch.iinfo(torch.int64).min
_LOW_HALF = 0xFFFF_FFFF


@dataclass(frozen=True, eq=False)
class TopK:
    """The best items of B rows, best first.

    Parameters
    ----------
    indices
        int64 ``[B, k]``; where a row has fewer than k items that may be recommended, −1 fills up.
    scores
        float32 ``[B, k]``; −inf beside an index of −1.
    """

    indices: Tensor
    scores: Tensor


def top_k(scores: Tensor, k: int) -> TopK:
    """Pick the k highest scores of each row, descending; equal scores by the lower item index.

    Exact and deterministic, on every device.

    Parameters
    ----------
    scores
        float32, float16 or bfloat16 ``[B, I]``; −inf marks an item that must not be recommended.
    k
        1 or more; if above I, the lists are filled up with −1.

    Raises
    ------
    DivergenceError
        A score is NaN, which has no rank.
    ConfigError
        ``k`` is below 1, or ``scores`` is no matrix of one of these types.
    """
    if scores.ndim != 2 or scores.dtype not in TYPES:
        raise ConfigError(
            f"scores must be float32, float16 or bfloat16 [B, I], got {scores.dtype} "
            f"{list(scores.shape)}."
        )
    if k < 1:
        raise ConfigError(f"k must be 1 or more, got {k}.")
    scores = scores.detach().float()  # exact for the two narrow types
    size = next((size for size in _BLOCK_SIZES if scores.shape[1] >= _LEAST_BLOCKS * k * size), 0)
    if size and scores.device.type == "cpu" and len(scores):
        keys = _best_by_blocks(scores.contiguous(), k, size)
    else:
        _refuse_nan(scores)
        keys = torch.topk(_keys(scores), min(k, scores.shape[1])).values
        keys = torch.nn.functional.pad(keys, (0, k - keys.shape[1]), value=_NOTHING)
    best = _score_of(keys)
    return TopK(torch.where(best == -torch.inf, NO_ITEM, _index_of(keys)), best)


def exclude_(scores: Tensor, indptr: np.ndarray, indices: np.ndarray) -> Tensor:
    """Set the items of B histories to −inf, in place.

    Parameters
    ----------
    scores
        ``[B, I]``, overwritten.
    indptr, indices
        The histories in CSR form: int64 ``[B + 1]`` and integer ``[nnz]``.

    Returns
    -------
    Tensor
        ``scores`` itself.
    """
    if len(indptr) != len(scores) + 1:
        raise ConfigError(f"{len(scores)} rows of scores but {len(indptr) - 1} histories.")
    rows = torch.from_numpy(np.repeat(np.arange(len(scores)), np.diff(indptr)))
    columns = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    place = (rows.to(scores.device), columns.to(scores.device))
    return scores.index_put_(place, scores.new_tensor(-torch.inf))


def _best_by_blocks(scores: Tensor, k: int, size: int) -> Tensor:
    """Keys of the k best items per row, descending, int64 ``[B, k]``; on a CPU.

    No item outside the k best blocks (by maximum, ties by the lower block) is among the k best:
    each of those blocks holds an item that goes before it. The least of their maxima is thus a
    lower bound of the k-th best score; few items reach it, and only they are sorted.
    """
    n_rows, n_items = scores.shape
    n_blocks = n_items // size
    rest = scores[:, n_blocks * size :]  # fewer than a block: always looked into
    maxima = scores[:, : n_blocks * size].view(n_rows, n_blocks, size).amax(2)
    _refuse_nan(maxima)
    _refuse_nan(rest)
    blocks = _index_of(torch.topk(_keys(maxima), k, sorted=False).values).sort(1).values  # [B, k]
    bound = maxima.gather(1, blocks).amin(1, keepdim=True)
    bound.clamp_(min=torch.finfo(torch.float32).min)  # nothing at −inf is wanted
    starts = blocks * size
    # A view of all windows of `size` scores: index_select copies a window at once, gather does not.
    windows = scores.flatten().as_strided((scores.numel() - size + 1, size), (1, 1))
    offset = torch.arange(n_rows)[:, None] * n_items
    inside = windows.index_select(0, (starts + offset).flatten()).view(n_rows, k * size)
    if rest.shape[1]:
        inside = torch.cat([inside, rest], dim=1)
        starts = torch.cat([starts, torch.full((n_rows, 1), n_blocks * size)], dim=1)
    reaching = np.flatnonzero((inside >= bound).numpy())
    if len(reaching) > _MANY_TIES * n_rows * k:
        reaching = np.flatnonzero(_without_surplus_ties(inside, bound, k).numpy())
    row, column = np.divmod(reaching, inside.shape[1])
    item = starts.numpy()[row, column // size] + column % size
    found = inside.numpy().reshape(-1)[reaching]
    return torch.from_numpy(_sorted_rows(row, found, item, n_rows, k))


def _without_surplus_ties(inside: Tensor, bound: Tensor, k: int) -> Tensor:
    """Which candidates (in item order) are above the bound or among the first k at it."""
    ties = inside == bound
    return (inside > bound) | (ties & (ties.cumsum(1, dtype=torch.int32) <= k))


def _sorted_rows(
    row: np.ndarray, score: np.ndarray, item: np.ndarray, n_rows: int, k: int
) -> np.ndarray:
    """Keys ``[n_rows, k]``, descending, of ragged candidates given row by row."""
    counts = np.bincount(row, minlength=n_rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = np.full((n_rows, max(k, int(counts.max(initial=0)))), _NOTHING)
    ranked = _ordered(torch.from_numpy(score)).numpy().astype(np.int64)
    keys[row, place] = (ranked << 32) | (_LOW_HALF - item)
    keys.sort(axis=1)
    return keys[:, ::-1][:, :k].copy()


def _keys(scores: Tensor) -> Tensor:
    """Distinct int64 keys ``[B, I]`` in ranking order: the score above, the lower column first."""
    low = _LOW_HALF - torch.arange(scores.shape[1], device=scores.device)
    return (_ordered(scores).long() << 32) | low


def _ordered(scores: Tensor) -> Tensor:
    """int32 of the same order as float32 ``scores``; −0.0 counts as 0.0."""
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFF_FFFF)  # negative floats run backwards: flip their bits


def _index_of(keys: Tensor) -> Tensor:
    return _LOW_HALF - (keys & _LOW_HALF)


def _score_of(keys: Tensor) -> Tensor:
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFF_FFFF)).view(torch.float32)
    return scores.masked_fill(keys == _NOTHING, -torch.inf)


def _refuse_nan(scores: Tensor) -> None:
    """Raise DivergenceError if a score ``[B, n]`` is NaN."""
    bad = scores.isnan().any(dim=1)
    if bool(bad.any()):
        raise DivergenceError.of_scores(int(bad.sum()), len(scores))
