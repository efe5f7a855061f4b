"""Many requests answered by one pass through the model: score, exclude, rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.ranking import NO_ITEM, top_k
from coterie.request import rows_at_once
from coterie.serving.served import ServedModel


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """One request over a model's items.

    Parameters
    ----------
    model
        Which one; the request keeps it, whatever is loaded meanwhile.
    history
        The user's known items, distinct, int64 ``[n]``.
    k
        Length of the list.
    excluded
        Items that the list must not hold, int64.
    allowed
        Items that alone it may hold, int64; None allows all.
    barred
        Items that a filter excludes, bool ``[I]``; None excludes none.
    """

    model: ServedModel
    history: np.ndarray
    k: int
    excluded: np.ndarray
    allowed: np.ndarray | None = None
    barred: np.ndarray | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Best:
    """The best items of one request, best first.

    Parameters
    ----------
    index
        The model's item indices, at most k; fewer where fewer are eligible.
    scores
        As many; numbers of training users if ``fallback``.
    fallback
        Whether the history had no known item, so that the most popular items are given.
    """

    index: list[int]
    scores: list[float]
    fallback: bool


def answer(asks: Sequence[Ask]) -> list[Best]:
    """The answer to each request, the same as if it were alone (up to rounding).

    A batch takes as long as its longest list wants for all.
    """
    kinds: dict[tuple[int, bool], list[int]] = {}
    for place, ask in enumerate(asks):
        kinds.setdefault((id(ask.model), _by_shortlist(ask)), []).append(place)
    found: list[Best | None] = [None] * len(asks)
    for (_, short), places in kinds.items():
        size = rows_at_once(len(asks[places[0]].model.ids), None)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            chosen = _chosen([asks[at] for at in part], short=short)
            for place, best in zip(part, chosen, strict=True):
                found[place] = best
    return [best for best in found if best is not None]


def _by_shortlist(ask: Ask) -> bool:
    shortlist = ask.model.shortlist
    return shortlist is not None and len(ask.history) > 0 and shortlist.pays(ask.k)


@torch.inference_mode()
def _chosen(asks: list[Ask], *, short: bool) -> list[Best]:
    """Lists of one model, all by its shortlist or none."""
    model = asks[0].model
    k = np.array([min(ask.k, max(len(model.ids), 1)) for ask in asks])
    if short:
        assert model.shortlist is not None
        sums, scale = _sums(model.recommender.vae.encoder.table, asks)
        excluded, closed = _excluded(asks), _closed(asks)
        index, values = model.shortlist.best(sums, k, excluded, scale=scale, closed=closed)
    else:
        best = top_k(_eligible_(_scores(model, asks), asks), int(k.max()))
        index, values = best.indices.cpu().numpy(), best.scores.cpu().numpy()
    ends = np.minimum((index != NO_ITEM).sum(axis=1), k).tolist()
    rows = zip(index.tolist(), values.tolist(), ends, asks, strict=True)
    return [
        Best(items[:end], scores[:end], len(ask.history) == 0) for items, scores, end, ask in rows
    ]


def _sums(table: Tensor, asks: list[Ask]) -> tuple[np.ndarray, np.ndarray]:
    """Of the table's rows over each history, ``[B, D]``; and their scale, ``1 / √length``.

    One call of PyTorch, as each waits for the interpreter when it ends.
    """
    lengths = np.array([len(ask.history) for ask in asks])
    starts = np.cumsum(lengths) - lengths
    items = torch.from_numpy(np.concatenate([ask.history for ask in asks]))
    sums = F.embedding_bag(items, table, torch.from_numpy(starts), mode="sum")
    return sums.numpy(), 1 / np.sqrt(lengths, dtype=np.float32)


def _scores(model: ServedModel, asks: list[Ask]) -> Tensor:
    """float32 ``[B, I]``; popularity where there is no history."""
    scores: Tensor = model.recommender.model(_batch(model, asks))
    empty = torch.tensor([len(ask.history) == 0 for ask in asks])
    if empty.any():
        popularity = torch.from_numpy(model.recommender.item_counts).to(scores)
        scores[empty.to(scores.device)] = popularity
    return scores


def _batch(model: ServedModel, asks: list[Ask]) -> UserBatch:
    lengths = np.array([len(ask.history) for ask in asks])
    indptr = np.zeros(len(asks) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    batch = UserBatch(
        torch.from_numpy(indptr),
        torch.from_numpy(np.concatenate([ask.history for ask in asks])),
        torch.from_numpy(1 / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)),
        len(model.ids),
    )
    return batch.to(model.recommender.device)


def _eligible_(scores: Tensor, asks: list[Ask]) -> Tensor:
    """Set what each request must not get to −inf, in place."""
    closed = _closed(asks)
    if closed is not None:
        scores.masked_fill_(torch.from_numpy(closed).to(scores.device), -torch.inf)
    rows, columns = torch.from_numpy(_excluded(asks)).to(scores.device).T
    scores[rows, columns] = -torch.inf
    return scores


def _excluded(asks: list[Ask]) -> np.ndarray:
    """Rows and items that the rows' lists must not hold, int64 ``[n, 2]``."""
    lengths = [len(ask.excluded) for ask in asks]
    found = np.empty((sum(lengths), 2), dtype=np.int64)
    found[:, 0] = np.repeat(np.arange(len(asks)), lengths)
    found[:, 1] = np.concatenate([ask.excluded for ask in asks])
    return found


def _closed(asks: list[Ask]) -> np.ndarray | None:
    """More of these, by filters and lists of what alone is allowed, bool ``[B, I]``."""
    if all(ask.barred is None and ask.allowed is None for ask in asks):
        return None
    closed = np.zeros((len(asks), len(asks[0].model.ids)), dtype=bool)
    for row, ask in zip(closed, asks, strict=True):
        if ask.allowed is not None:
            row[:] = True
            row[ask.allowed] = False
        if ask.barred is not None:
            row |= ask.barred
    return closed
