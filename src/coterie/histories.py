"""Histories as users give them (lists of external ids, or interactions) over a model's items."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import polars as pl

from coterie.data.ids import IdMap, as_id_series
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError

Histories = (
    Interactions
    | Mapping[Any, Iterable[Any]]  # user id -> item ids
    | Sequence[Any]  # item ids of one user, or one such sequence per user
    | np.ndarray
    | pl.Series
)
OnUnknown = Literal["report", "raise"]
COUNTED_AT_ONCE = 1 << 22
NAMED_AT_MOST = 5
UNKNOWN_SCHEMA = {"item_id": pl.String, "found_in": pl.String, "count": pl.Int64}


@dataclass(frozen=True, eq=False)
class FoldIn:
    """Histories of U users, ready to be read batch by batch over a model's items.

    Parameters
    ----------
    data
        The histories over their own items.
    item_ids
        The model's items.
    columns
        The model's index of each of ``data``'s items, int64 ``[I']``, −1 where unknown; None
        where the items are the model's.
    unknown
        Item ids that the model does not know: columns ``item_id`` (as text), ``found_in``
        (``"histories"``, ``"allow"`` or ``"deny"``) and ``count``, the users who have it (1 for
        the other two).
    """

    data: Interactions
    item_ids: IdMap
    columns: np.ndarray | None
    unknown: pl.DataFrame

    @property
    def n_users(self) -> int:
        """U."""
        return self.data.n_users

    def batch(self, start: int, stop: int) -> Interactions:
        """Rows ``start … stop − 1`` over the model's items, without the unknown ones."""
        rows = self.data.rows(np.arange(start, min(stop, self.n_users)))
        return rows if self.columns is None else _renumbered(rows, self.columns, self.item_ids)


def fold_in(histories: Histories, item_ids: IdMap) -> FoldIn:
    """Read histories in any of the accepted forms.

    Parameters
    ----------
    histories
        One user's item ids; or one such sequence per user (the users are then 0 … U − 1); or a
        mapping from user id to item ids; or :class:`Interactions`, over any items. An empty
        sequence is one user without a history.
    item_ids
        The model's items. Text that spells an integer matches an integer id, and back.

    Raises
    ------
    DataError
        Something is None, neither an id nor a sequence of ids, or ids of several types.
    """
    if not isinstance(histories, Interactions):
        return _of_lists(histories, item_ids)
    if _same(histories.item_ids, item_ids):
        return FoldIn(histories, item_ids, None, pl.DataFrame(schema=UNKNOWN_SCHEMA))
    columns = item_ids.to_index(histories.item_ids.ids)
    counts = _item_counts(histories) if (columns < 0).any() else np.zeros_like(columns)
    lost = np.flatnonzero((columns < 0) & (counts > 0))
    unknown = _unknown(histories.item_ids.to_ids(lost), counts[lost], "histories")
    return FoldIn(histories, item_ids, columns, unknown)


def over(data: Interactions, item_ids: IdMap) -> Interactions:
    """``data`` over the items ``item_ids``, without its other items; itself if they are equal."""
    if _same(data.item_ids, item_ids):
        return data
    return _renumbered(data, item_ids.to_index(data.item_ids.ids), item_ids)


def from_pairs(
    users: np.ndarray, columns: np.ndarray, user_ids: IdMap, item_ids: IdMap
) -> Interactions:
    """Interactions of pairs ``[nnz]`` in any order; duplicates count once, −1 is left out."""
    known = columns >= 0
    keys = np.sort(users[known] * len(item_ids) + columns[known])
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique hashes, which is many times slower
    rows, indices = np.divmod(keys, max(len(item_ids), 1))
    indptr = np.zeros(len(user_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(user_ids)), out=indptr[1:])
    return Interactions(indptr, indices.astype(np.int32), user_ids, item_ids)


def known_items(
    ids: Iterable[Any] | None, item_ids: IdMap, *, named: str
) -> tuple[np.ndarray | None, pl.DataFrame]:
    """Indices of the known ones among a list of item ids (None stays None), and the unknown."""
    if ids is None:
        return None, pl.DataFrame(schema=UNKNOWN_SCHEMA)
    series = _ids(_as_list(ids, named), named).unique(maintain_order=True)
    index = item_ids.to_index(series)
    lost = series.filter(pl.Series(index < 0))
    return index[index >= 0], _unknown(lost, np.ones(len(lost), dtype=np.int64), named)


def refuse_unknown(unknown: pl.DataFrame, on_unknown: OnUnknown) -> pl.DataFrame:
    """Return ``unknown``; or raise :class:`DataError` that names them if ``"raise"``."""
    if on_unknown not in ("report", "raise"):
        raise ConfigError(f'on_unknown must be "report" or "raise", got {on_unknown!r}.')
    if on_unknown == "report" or unknown.is_empty():
        return unknown
    names = ", ".join(unknown["item_id"].head(NAMED_AT_MOST))
    more = ", …" if len(unknown) > NAMED_AT_MOST else ""
    raise DataError(
        f"The model does not know {len(unknown)} item ids: {names}{more}. Leave them out, or pass "
        'on_unknown="report" to go on without them.'
    )


def _same(first: IdMap, second: IdMap) -> bool:
    return first is second or first == second


def _renumbered(data: Interactions, columns: np.ndarray, item_ids: IdMap) -> Interactions:
    return from_pairs(data.user_of_each(), columns[data.indices], data.user_ids, item_ids)


def _of_lists(histories: Any, item_ids: IdMap) -> FoldIn:
    if hasattr(histories, "columns") or hasattr(histories, "tocsr"):
        raise DataError(
            f"Pass a table or matrix ({type(histories).__name__}) through "
            "coterie.read_interactions first."
        )
    if isinstance(histories, Mapping):
        user_ids = IdMap(_ids(list(histories), "users"))
        lists = [_as_list(history, "a history") for history in histories.values()]
    else:
        values = _as_list(histories, "histories")
        nested = [_is_collection(value) for value in values]
        if any(nested) and not all(nested):
            raise DataError(
                "histories must be either item ids (one user) or one sequence of item ids per "
                "user, got a mixture; None stands for nothing, use [] for an empty history."
            )
        lists = [_as_list(value, "a history") for value in values] if any(nested) else [values]
        user_ids = IdMap(range(len(lists)))
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    users = np.repeat(np.arange(len(lists)), lengths)
    ids = _ids(list(chain.from_iterable(lists)), "histories")
    columns = item_ids.to_index(ids)
    lost = pl.DataFrame({"user": users, "id": ids}).filter(pl.Series(columns < 0)).unique()
    counts = lost.group_by("id").len("count").sort("id")
    unknown = _unknown(counts["id"], counts["count"].to_numpy(), "histories")
    return FoldIn(from_pairs(users, columns, user_ids, item_ids), item_ids, None, unknown)


def _is_collection(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return value.ndim > 0 if isinstance(value, np.ndarray) else isinstance(value, Iterable)


def _as_list(values: Any, named: str) -> list[Any]:
    if not _is_collection(values):
        raise DataError(
            f"Expected a sequence of item ids as {named}, got {values!r} "
            f"({type(values).__name__}); wrap a single id in a list."
        )
    if isinstance(values, np.ndarray):
        return list(values) if values.ndim > 1 else list(values.tolist())
    return list(values)


def _ids(values: list[Any], named: str) -> pl.Series:
    if any(value is None for value in values):
        raise DataError(f"None stands among the ids of {named}; every id must be given.")
    try:
        return as_id_series(values)
    except (pl.exceptions.PolarsError, UnicodeError, OverflowError) as error:
        raise DataError(
            f"The ids of {named} must be 64-bit integers or valid text: {error}."
        ) from error


def _unknown(ids: pl.Series, counts: np.ndarray, found_in: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"item_id": ids.cast(pl.String), "found_in": [found_in] * len(ids), "count": counts},
        schema=UNKNOWN_SCHEMA,
    ).sort("count", descending=True, maintain_order=True)


def _item_counts(data: Interactions) -> np.ndarray:
    """Users per item, a part of the (possibly memory-mapped) indices at a time."""
    counts = np.zeros(data.n_items, dtype=np.int64)
    for start in range(0, data.nnz, COUNTED_AT_ONCE):
        part = data.indices[start : start + COUNTED_AT_ONCE]
        counts += np.bincount(part, minlength=data.n_items)
    return counts
