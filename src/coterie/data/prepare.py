"""From a log of events to :class:`Interactions`: checks, duplicates, thresholds, minimum counts.

The order is fixed: time window, duplicates (the last opinion counts), positive threshold, then
minimum counts to a fixed point. Work arrays are NumPy, codes are int32, and one int64 key per row
is sorted in place, so that 20 million rows fit in well under 2 GB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, FiniteFloat, field_validator, model_validator

from coterie.config import Config
from coterie.data.columns import ITEM, RATING, TIMESTAMP
from coterie.data.encode import Codes, IdType
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import DataError

Progress = Callable[[str], None]
CHUNK = 1 << 22  # rows of a work array that are treated at once
KEY_BITS = 62  # of a signed 64-bit key that are free to hold a pair and its place


class PrepareOptions(Config):
    """What to keep of a log, and how to read its columns."""

    positive_threshold: FiniteFloat | None = Field(
        None, description="Keep rows with rating >= this; None keeps every row."
    )
    min_user_items: int = Field(1, ge=0, description="Least items per user, to a fixed point.")
    min_item_users: int = Field(1, ge=0, description="Least users per item, to a fixed point.")
    duplicates: Literal["last", "error"] = Field(
        "last",
        description="A pair that stands twice: keep the last (by time, else by row), or refuse.",
    )
    since: int | None = Field(None, description="First second to keep (Unix time or ISO date).")
    until: int | None = Field(None, description="First second to drop (Unix time or ISO date).")
    user: str | None = Field(None, description="Column of user ids; None finds the usual names.")
    item: str | None = Field(None, description="Column of item ids; None finds the usual names.")
    rating: str | None = Field(None, description="Column of ratings; None finds the usual names.")
    timestamp: str | None = Field(None, description="Column of times; None finds the usual names.")
    timestamp_unit: Literal["s", "ms", "us", "ns"] = Field(
        "s", description="Unit of numeric times; columns of a date type need none."
    )
    id_type: IdType = Field(
        "auto", description="Ids as integers, as text, or integers where all text spells one."
    )
    separator: str | None = Field(None, min_length=1, description="Of a text file; None finds it.")
    header: bool | None = Field(
        None, description="Whether a text file starts with column names; None finds out."
    )
    keep_values: bool = Field(True, description="Keep ratings, where there are any.")
    keep_timestamps: bool = Field(True, description="Keep times, where there are any.")

    @field_validator("since", "until", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return value
            aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return int(aware.timestamp())
        return value

    @model_validator(mode="after")
    def _window(self) -> "PrepareOptions":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(
                f"since ({self.since}) must be before until ({self.until}); nothing would be kept."
            )
        return self

    @property
    def has_window(self) -> bool:
        """Whether rows are chosen by time."""
        return self.since is not None or self.until is not None


@dataclass(eq=False)
class Log:
    """Checked rows of a log in file order, owned by the preparation that consumes it.

    Parameters
    ----------
    users, items
        Codes int32 ``[n]`` and sorted distinct ids.
    ratings
        Optional finite float32 ``[n]``.
    timestamps
        Optional int64 ``[n]``, seconds since 1970, not negative.
    """

    users: Codes
    items: Codes
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None


def prepare(
    log: Log,
    *,
    options: PrepareOptions | None = None,
    items: pl.DataFrame | None = None,
    name: str = "interactions",
    source: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Filter a log and lay it out as compressed rows over the users and items that remain.

    Parameters
    ----------
    log
        The rows; its arrays are released as soon as they are used.
    items
        Optional table with a column ``item_id``; rows of items that remain are kept, in id order.
    source
        Facts for the manifest; the rows that each filter removed are added as ``filters``.

    Raises
    ------
    DataError
        Duplicate pairs under ``duplicates="error"``, an option that needs a column that is not
        there, or nothing left (the message says how much each filter removed).
    """
    options = options or PrepareOptions()
    tell = progress or (lambda stage: None)
    _refuse_missing_columns(log, options)
    audit: dict[str, int] = {"rows": len(log.users.codes)}
    user_ids, item_ids = log.users.ids, log.items.ids
    rows = _take(log, options)
    _keep_window(rows, options, audit)
    tell("sorting")
    _sort_pairs(rows, len(item_ids), need_values=rows.values is not None)
    _keep_last(rows, options, user_ids, item_ids, audit)
    if options.positive_threshold is not None and rows.values is not None:
        keep = rows.values >= np.float32(options.positive_threshold)
        _keep(rows, keep, "below the positive threshold", audit)
    tell("filtering")
    _keep_frequent(rows, options, audit, (len(user_ids), len(item_ids)))
    _refuse_empty(rows, audit)
    tell("building rows")
    users, user_map = _compact(rows.user, user_ids)
    columns, item_map = _compact(rows.item, item_ids)
    return Interactions(
        _offsets(users, len(user_map)),
        columns,
        user_map,
        item_map,
        rows.values if options.keep_values else None,
        rows.times if options.keep_timestamps else None,
        None if items is None else _item_rows(items, item_map),
        name,
        {**(source or {}), "filters": audit},
    )


def arrange(
    log: Log, *, item_ids: IdMap, user_ids: IdMap | None = None, name: str = "interactions"
) -> Interactions:
    """Lay a log out as it is over given items and users (default: the log's own).

    Only repeated pairs are reduced, to the last. All ids of the log must be among the given ones.
    """
    users = user_ids or IdMap(log.users.ids)
    rows = _Rows(
        users.to_index(log.users.ids).astype(np.int32)[log.users.codes],
        item_ids.to_index(log.items.ids).astype(np.int32)[log.items.codes],
        log.ratings,
        log.timestamps,
    )
    _sort_pairs(rows, len(item_ids), need_values=rows.values is not None)
    _keep_last(rows, PrepareOptions(), users.ids, item_ids.ids, {})
    indptr = _offsets(rows.user, len(users))
    return Interactions(
        indptr, rows.item, users, item_ids, rows.values, rows.times, name=name
    ).check()


@dataclass(eq=False)
class _Rows:
    user: np.ndarray
    item: np.ndarray
    values: np.ndarray | None
    times: np.ndarray | None

    def take(self, index: np.ndarray) -> None:
        """Keep the rows of a boolean mask, or reorder by positions, one column at a time."""
        self.user = self.user[index]
        self.item = self.item[index]
        self.values = None if self.values is None else self.values[index]
        self.times = None if self.times is None else self.times[index]


def _take(log: Log, options: PrepareOptions) -> _Rows:
    """Move the log's columns out of it, so that each is freed as soon as it is replaced."""
    wants_values = options.keep_values or options.positive_threshold is not None
    rows = _Rows(
        log.users.codes, log.items.codes, log.ratings if wants_values else None, log.timestamps
    )
    log.users = log.items = Codes(np.empty(0, np.int32), pl.Series("id", [], dtype=pl.Int64))
    log.ratings = log.timestamps = None
    return rows


def _refuse_missing_columns(log: Log, options: PrepareOptions) -> None:
    if options.positive_threshold is not None and log.ratings is None:
        raise DataError(
            f"positive_threshold={options.positive_threshold} needs ratings, and there is no "
            f"rating column; name it (option {RATING!r}) or drop the threshold."
        )
    if options.has_window and log.timestamps is None:
        raise DataError(
            "A time window (since, until) needs times, and there is no timestamp column; "
            f"name it (option {TIMESTAMP!r}) or drop the window."
        )


def _keep(rows: _Rows, keep: np.ndarray, why: str, audit: dict[str, int]) -> None:
    removed = len(keep) - int(np.count_nonzero(keep))
    audit[why] = audit.get(why, 0) + removed
    if removed:
        rows.take(keep)


def _keep_window(rows: _Rows, options: PrepareOptions, audit: dict[str, int]) -> None:
    if not options.has_window or rows.times is None:
        return
    keep = np.ones(len(rows.times), dtype=bool)
    if options.since is not None:
        keep &= rows.times >= options.since
    if options.until is not None:
        keep &= rows.times < options.until
    _keep(rows, keep, "outside the time window", audit)


def _sort_pairs(rows: _Rows, n_items: int, *, need_values: bool) -> None:
    """Order the rows by user, then item, then their place in the file."""
    n = len(rows.user)
    if n == 0:
        return
    item_bits = max(1, n_items - 1).bit_length()
    key = rows.user.astype(np.int64)
    key <<= item_bits
    key |= rows.item
    if _never_falls(key):
        return
    if not need_values and rows.times is None:
        key.sort()
        _split_keys(key, item_bits, rows)
        return
    place_bits = int(n - 1).bit_length()
    key_bits = int(key.max()).bit_length()
    if (
        place_bits + key_bits <= KEY_BITS
    ):  # the place rides in the low bits: one sort in place, stable
        key <<= place_bits
        for start in range(0, n, CHUNK):
            part = key[start : start + CHUNK]
            part |= np.arange(start, start + len(part), dtype=np.int64)
        key.sort()
        order = (key & ((1 << place_bits) - 1)).astype(np.uint32 if n < 2**32 else np.int64)
        key >>= place_bits
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    _split_keys(key, item_bits, rows)
    if rows.values is not None:
        rows.values = rows.values[order]
    if rows.times is not None:
        rows.times = rows.times[order]


def _never_falls(key: np.ndarray) -> bool:
    return all(
        bool(
            np.all(
                key[start + 1 : start + CHUNK + 1]
                >= key[start : start + CHUNK][: len(key) - start - 1]
            )
        )
        for start in range(0, len(key), CHUNK)
    )


def _split_keys(key: np.ndarray, item_bits: int, rows: _Rows) -> None:
    for start in range(0, len(key), CHUNK):
        part = slice(start, start + CHUNK)
        rows.user[part] = key[part] >> item_bits
        rows.item[part] = key[part] & ((1 << item_bits) - 1)


def _keep_last(
    rows: _Rows,
    options: PrepareOptions,
    user_ids: pl.Series,
    item_ids: pl.Series,
    audit: dict[str, int],
) -> None:
    """Keep one row per pair: the latest, and of equally late ones the last in the file."""
    again = (rows.user[1:] == rows.user[:-1]) & (rows.item[1:] == rows.item[:-1])
    if not again.any():
        return
    first = int(again.argmax())
    if options.duplicates == "error":
        raise DataError(
            f"{int(again.sum())} rows repeat a pair that was there already, first user "
            f"{user_ids[int(rows.user[first])]!r} with item {item_ids[int(rows.item[first])]!r}; "
            "expected each pair once (duplicates='last' keeps the last of them)."
        )
    keep = np.append(~again, True)
    if rows.times is not None:
        twin = np.flatnonzero(np.append(again, False) | np.append(False, again))
        group = np.cumsum(~np.append(False, again)[twin])
        best = twin[np.lexsort((rows.times[twin], group))]
        keep[twin] = False
        last_of_group = np.append(group[1:] != group[:-1], True)
        keep[best[last_of_group]] = True
    _keep(rows, keep, "earlier duplicates of a pair", audit)


def _keep_frequent(
    rows: _Rows, options: PrepareOptions, audit: dict[str, int], shape: tuple[int, int]
) -> None:
    least_items, least_users = options.min_user_items, options.min_item_users
    while len(rows.user):
        before = len(rows.user)
        if least_items > 1:
            enough = _counts(rows.user, shape[0]) >= least_items
            _keep(rows, enough[rows.user], f"of users with fewer than {least_items} items", audit)
        if least_users > 1:
            enough = _counts(rows.item, shape[1]) >= least_users
            _keep(rows, enough[rows.item], f"of items with fewer than {least_users} users", audit)
        if len(rows.user) == before or min(least_items, least_users) <= 1:
            return


def _offsets(users: np.ndarray, n_users: int) -> np.ndarray:
    indptr = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(_counts(users, n_users), out=indptr[1:])
    return indptr


def _counts(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs, int64 ``[size]``; in pieces, as bincount widens its input."""
    total = np.zeros(size, dtype=np.int64)
    for start in range(0, len(codes), CHUNK):
        total += np.bincount(codes[start : start + CHUNK], minlength=size)
    return total


def _refuse_empty(rows: _Rows, audit: dict[str, int]) -> None:
    if len(rows.user):
        return
    if audit["rows"] == 0:
        raise DataError("The data holds no rows; expected at least one interaction.")
    removed = "; ".join(f"{n} rows {why}" for why, n in audit.items() if why != "rows" and n)
    raise DataError(
        f"Nothing is left of {audit['rows']} rows after the filters: {removed}. Loosen one of them."
    )


def _compact(codes: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, IdMap]:
    """Codes over the ids that still occur, int32, in place where all do."""
    present = _counts(codes, len(ids)) > 0
    if present.all():
        return codes, IdMap(ids)
    renumbered = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return renumbered[codes], IdMap(ids.filter(pl.Series(present)))


def _item_rows(table: pl.DataFrame, item_ids: IdMap) -> pl.DataFrame:
    index = item_ids.to_index(table[ITEM])
    known = table.with_columns(pl.Series("_index", index)).filter(pl.col("_index") >= 0)
    return (
        known.sort("_index")
        .drop("_index")
        .with_columns(item_ids.to_ids(known["_index"].sort().to_numpy()).alias(ITEM))
    )
