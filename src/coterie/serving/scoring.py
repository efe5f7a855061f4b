"""Many requests answered by one pass through the model: score, exclude, rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coterie.data.ids import NO_ITEM
from coterie.memory import rows_at_once
from coterie.serving.output_layer import OutputLayer
from coterie.serving.served import ServedModel

Lists = tuple[np.ndarray, np.ndarray]
"""Items and scores of B requests, ``[B, K]``; a row is filled up with −1 and −inf."""


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
    kinds: dict[tuple[int, int], list[int]] = {}
    for place, ask in enumerate(asks):
        kinds.setdefault((id(ask.model), id(_way(ask))), []).append(place)
    found: list[Best | None] = [None] * len(asks)
    for places in kinds.values():
        first = asks[places[0]]
        size = rows_at_once(len(first.model.ids))
        for start in range(0, len(places), size):
            part = places[start : start + size]
            chosen = _chosen([asks[at] for at in part], _way(first))
            for place, best in zip(part, chosen, strict=True):
                found[place] = best
    return [best for best in found if best is not None]


Way = Callable[[list[Ask], np.ndarray], Lists] | OutputLayer
"""What finds the lists of some requests, and of what lengths."""


def _way(ask: Ask) -> Way:
    """What finds the list."""
    if not len(ask.history):
        return _by_popularity
    lists = ask.model.lists
    return _by_pytorch if lists is None else lists.layer(ask.k)


def _chosen(asks: list[Ask], way: Way) -> list[Best]:
    """Lists of one model, all found in one way."""
    model = asks[0].model
    k = np.array([min(ask.k, max(len(model.ids), 1)) for ask in asks])
    if isinstance(way, OutputLayer):
        assert model.lists is not None
        sums, scale = model.lists.sums([ask.history for ask in asks])
        index, values = way.best(sums, k, _excluded(asks), scale=scale, closed=_closed(asks))
    else:
        index, values = way(asks, k)
    ends = np.minimum((index != NO_ITEM).sum(axis=1), k).tolist()
    rows = zip(index.tolist(), values.tolist(), ends, strict=True)
    fallback = way is _by_popularity
    return [Best(items[:end], scores[:end], fallback) for items, scores, end in rows]


def _by_popularity(asks: list[Ask], k: np.ndarray) -> Lists:
    model = asks[0].model
    eligible = np.ones((len(asks), len(model.ids)), dtype=bool)
    closed, (rows, columns) = _closed(asks), _excluded(asks).T
    if closed is not None:
        eligible &= ~closed
    eligible[rows, columns] = False
    index = np.full((len(asks), int(k.max())), NO_ITEM)
    values = np.full(index.shape, -np.inf, dtype=np.float32)
    for row, open_ in enumerate(eligible[:, model.by_popularity]):
        first = model.by_popularity[np.flatnonzero(open_)[: k[row]]]
        index[row, : len(first)], values[row, : len(first)] = first, model.item_counts[first]
    return index, values


def _by_pytorch(asks: list[Ask], k: np.ndarray) -> Lists:
    from coterie.serving.by_pytorch import best

    recommender = asks[0].model.require_recommender()
    histories = [ask.history for ask in asks]
    return best(recommender, histories, int(k.max()), _excluded(asks), _closed(asks))


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
