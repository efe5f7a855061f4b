"""From a log of events to :class:`Interactions`: checks, duplicates, thresholds, minimum counts.

The order is fixed: time window, duplicates (the last opinion counts), positive threshold, then
minimum counts to a fixed point. How the rows are treated is in :mod:`coterie.data.rows`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field, FiniteFloat, field_validator, model_validator

from coterie.config import Config
from coterie.data.columns import ITEM, RATING, TIMESTAMP
from coterie.data.encode import Codes, IdType
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.rows import (
    Rows,
    counts,
    keep_frequent,
    keep_last,
    keep_window,
    offsets,
    repeats,
    sort_pairs,
)
from coterie.errors import DataError

Progress = Callable[[str], None]


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
        if isinstance(value, date):  # as a TOML file gives it; a datetime is a date, too
            value = value.isoformat()
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
    if options.has_window:
        keep_window(rows, options.since, options.until, audit)
    tell("sorting")
    sort_pairs(rows, len(item_ids))
    if options.duplicates == "error":
        _refuse_repeats(rows, user_ids, item_ids)
    keep_last(rows, audit)
    if options.positive_threshold is not None and rows.values is not None:
        keep = rows.values >= np.float32(options.positive_threshold)
        rows.keep(keep, "below the positive threshold", audit)
    tell("filtering")
    shape = len(user_ids), len(item_ids)
    keep_frequent(rows, options.min_user_items, options.min_item_users, shape, audit)
    _refuse_empty(rows, audit)
    tell("building rows")
    users, user_map = _compact(rows.user, user_ids)
    columns, item_map = _compact(rows.item, item_ids)
    return Interactions(
        offsets(users, len(user_map)),
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
    rows = Rows(
        users.to_index(log.users.ids).astype(np.int32)[log.users.codes],
        item_ids.to_index(log.items.ids).astype(np.int32)[log.items.codes],
        log.ratings,
        log.timestamps,
    )
    sort_pairs(rows, len(item_ids))
    keep_last(rows, {})
    indptr = offsets(rows.user, len(users))
    return Interactions(
        indptr, rows.item, users, item_ids, rows.values, rows.times, name=name
    ).check()


def _take(log: Log, options: PrepareOptions) -> Rows:
    """Move the log's columns out of it, so that each is freed as soon as it is replaced."""
    wants_values = options.keep_values or options.positive_threshold is not None
    rows = Rows(
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


def _refuse_repeats(rows: Rows, user_ids: pl.Series, item_ids: pl.Series) -> None:
    again = repeats(rows)
    if again.any():
        first = int(again.argmax())
        user, item = user_ids[int(rows.user[first])], item_ids[int(rows.item[first])]
        raise DataError(
            f"{int(again.sum())} rows repeat a pair that was there already, first user {user!r} "
            f"with item {item!r}; expected each pair once (duplicates='last' keeps the last)."
        )


def _compact(codes: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, IdMap]:
    """Codes over the ids that still occur, int32; as they are where all do."""
    present = counts(codes, len(ids)) > 0
    if present.all():
        return codes, IdMap(ids)
    renumbered = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return renumbered[codes], IdMap(ids.filter(pl.Series(present)))


def _refuse_empty(rows: Rows, audit: dict[str, int]) -> None:
    if len(rows.user):
        return
    if audit["rows"] == 0:
        raise DataError("The data holds no rows; expected at least one interaction.")
    removed = "; ".join(f"{n} rows {why}" for why, n in audit.items() if why != "rows" and n)
    raise DataError(
        f"Nothing is left of {audit['rows']} rows after the filters: {removed}. Loosen one of them."
    )


def _item_rows(table: pl.DataFrame, item_ids: IdMap) -> pl.DataFrame:
    index = item_ids.to_index(table[ITEM])
    known = table.with_columns(pl.Series("_index", index)).filter(pl.col("_index") >= 0)
    twice = known.filter(known["_index"].is_duplicated()).sort("_index", ITEM)
    if len(twice):
        item = item_ids.ids[int(twice["_index"][0])]
        clashing = twice.filter(twice["_index"] == twice["_index"][0])[ITEM]
        raise DataError(
            f"The item table's ids {', '.join(map(repr, clashing[:4]))} clash: all of them read as "
            f"the item {item!r} of the interactions. Keep one row of each item, or read the ids of "
            "the interactions as text (id_type='string')."
        )
    return (
        known.sort("_index")
        .drop("_index")
        .with_columns(item_ids.to_ids(known["_index"].sort().to_numpy()).alias(ITEM))
    )
