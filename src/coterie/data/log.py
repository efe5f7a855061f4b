"""A table of events, read in a stream and checked row by row: :class:`~coterie.data.prepare.Log`.

Every check names the column, the row (from 1, without header) and the value that is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from coterie.data.columns import ITEM, RATING, TIMESTAMP, USER
from coterie.data.encode import Codes, encode, id_expression, usual_bytes
from coterie.data.guard import reading
from coterie.data.prepare import Log, PrepareOptions
from coterie.errors import DataError

LATEST = 7_258_118_400  # the year 2200: later times are seconds of another unit
HEAD_ROWS = 100

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S UTC",
)
OPTIONS = {USER: "user", ITEM: "item", RATING: "rating", TIMESTAMP: "timestamp"}


@dataclass(frozen=True, eq=False)
class Table:
    """A lazily read table and which of its columns plays which role.

    Parameters
    ----------
    frame
        The rows, in file order.
    roles
        Role (``user_id``, ``item_id``, ``rating``, ``timestamp``) → column of ``frame``.
    label
        What to call it in messages: the path, or the kind of frame.
    skip_blank
        Whether rows without any value, or of spaces only, are blank lines, to be passed over.
    """

    frame: pl.LazyFrame
    roles: Mapping[str, str]
    label: str
    skip_blank: bool = False


def read_log(table: Table, options: PrepareOptions) -> Log:
    """Read the columns that the options need, in one streamed pass, and check them.

    Raises
    ------
    DataError
        An id is missing or clashes with another after casting, a rating is not a finite number, a
        time is missing, negative or not a time, or the source cannot be read.
    """
    with reading(table.label):
        columns = _Columns(table, options)
        frame = columns.collect(columns.integer_text())
        if frame is None:
            frame = columns.collect(frozenset())
        assert frame is not None
        frame, place = _without_blank_rows(frame, table)
        users = _ids(frame, USER, table, options, place)
        log = Log(users, _ids(frame, ITEM, table, options, place))
        if RATING in frame.columns:
            log.ratings = _ratings(frame, table, place)
        if TIMESTAMP in frame.columns:
            log.timestamps = _timestamps(frame, table, place)
    return log


class _Columns:
    """The columns of a table that the options need, as expressions over its frame."""

    def __init__(self, table: Table, options: PrepareOptions) -> None:
        self.table, self.options = table, options
        self.schema = table.frame.collect_schema()
        unused = {role for role, option in OPTIONS.items() if getattr(options, option) == ""}
        if not options.keep_values and options.positive_threshold is None:
            unused.add(RATING)
        self.roles = {role: name for role, name in table.roles.items() if role not in unused}

    def integer_text(self) -> frozenset[str]:
        """Id roles whose column is text that begins with integers, spelled in the usual way."""
        text = [
            role
            for role in (USER, ITEM)
            if self.schema[self.roles[role]] == pl.String and self.options.id_type != "string"
        ]
        if not text:
            return frozenset()
        head = self.table.frame.select(self.roles[role] for role in text).head(HEAD_ROWS)
        first = head.collect(engine="streaming")
        usual = first.select(pl.all().cast(pl.Int64, strict=False).cast(pl.String) == pl.all())
        named = dict(zip(text, usual.iter_columns(), strict=True))
        return frozenset(role for role, fits in named.items() if fits.fill_null(False).all())

    def collect(self, integer_text: frozenset[str]) -> pl.DataFrame | None:
        """Read the columns; None if an id that was read as integer text is not such text."""
        expressions = [
            self._expression(role, column).alias(role)
            if role not in integer_text
            else pl.col(column).cast(pl.Int64, strict=False).alias(role)
            for role, column in self.roles.items()
        ]
        bytes_ = [
            pl.col(self.roles[role]).str.len_bytes().cast(pl.UInt8, strict=False).alias(f"{role}#")
            for role in integer_text
        ]
        frame = self.table.frame.select(*expressions, *bytes_).collect(engine="streaming")
        for role in integer_text:
            lengths = frame.drop_in_place(f"{role}#")
            if frame[role].null_count() or lengths.null_count():
                return None
            if int(lengths.cast(pl.Int64).sum()) != usual_bytes(frame[role].to_numpy()):
                return None
        return frame

    def _expression(self, role: str, column: str) -> pl.Expr:
        dtype = self.schema[column]
        if role in (USER, ITEM):
            return id_expression(column, dtype)
        if role == RATING:
            return _rating_expression(column, dtype)
        return _time_expression(column, dtype, self.table, self.options)


def _rating_expression(column: str, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(column)
    if dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null):
        return value.cast(pl.Float32, strict=False)
    raise DataError(f"Column {column!r} holds {dtype}; ratings must be numbers.")


def _time_expression(
    column: str, dtype: pl.DataType, table: Table, options: PrepareOptions
) -> pl.Expr:
    """Seconds since 1970 as Int64; null where the value is no time."""
    value = pl.col(column)
    if dtype == pl.Date:
        return value.cast(pl.Datetime("us")).dt.epoch("s")
    if dtype == pl.Datetime:
        return value.dt.epoch("s")
    if dtype == pl.String:
        head = table.frame.select(value.drop_nulls().head(1)).collect(engine="streaming")
        if len(head) and head.to_series().cast(pl.Float64, strict=False).null_count():
            return _parsed_time(value)
        number = value.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
        exact = options.timestamp_unit in ("s", "ms")  # below 2^53 in either unit
        value = number if exact else pl.coalesce(value.cast(pl.Int64, strict=False), number)
    elif dtype.is_float():
        value = value.floor().cast(pl.Int64, strict=False)
    elif dtype.is_integer() or dtype == pl.Null:
        value = value.cast(pl.Int64, strict=False)
    else:
        raise DataError(
            f"Column {column!r} holds {dtype}; times must be numbers, dates or datetimes."
        )
    per_second = _PER_SECOND[options.timestamp_unit]
    return value if per_second == 1 else value.floordiv(per_second)


def _parsed_time(text: pl.Expr) -> pl.Expr:
    moments = [
        text.str.to_datetime(pattern, strict=False, time_unit="us") for pattern in _TIME_FORMATS
    ]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return pl.coalesce(*moments, day).dt.epoch("s")


def _without_blank_rows(
    frame: pl.DataFrame, table: Table
) -> tuple[pl.DataFrame, np.ndarray | None]:
    """Drop the rows that are blank lines; report the first other row that lacks an id.

    Returns
    -------
    tuple
        The rows that remain and, where some were dropped, the place of each in ``table.frame``,
        int64 ``[n]``.
    """
    nulls = {role: frame[role].null_count() for role in (USER, ITEM)}
    if not any(nulls.values()):
        return frame, None
    blank = np.zeros(len(frame), dtype=bool)
    if table.skip_blank:
        blank = frame.select(x=pl.all_horizontal(map(_is_blank, frame)))["x"].to_numpy()
    for role, column in ((role, table.roles[role]) for role in (USER, ITEM)):
        row = _first_row(frame[role].is_null() & ~pl.Series(blank))
        if row is not None:
            raise DataError(
                f"{table.label}, row {row + 1}: column {column!r} has no {role}; "
                "every row needs one."
            )
    return frame.filter(pl.Series(~blank)), np.flatnonzero(~blank)


def _is_blank(column: pl.Series) -> pl.Series:
    """Where there is nothing, or nothing but spaces."""
    absent = column.is_null()
    if isinstance(column.dtype, pl.Categorical):
        return absent | (column.cast(pl.String).str.strip_chars() == "").fill_null(True)
    return absent


def _ids(
    frame: pl.DataFrame,
    role: str,
    table: Table,
    options: PrepareOptions,
    place: np.ndarray | None,
) -> Codes:
    column = frame.drop_in_place(role).rename(table.roles[role])
    try:
        codes = encode(column, id_type=options.id_type)
    except DataError as error:
        raise DataError(f"{table.label}: {error}") from error
    if codes.ids.dtype == pl.String and len(codes.ids) and codes.ids[0] == "":
        row = _physical(int((codes.codes == 0).argmax()), place)
        raise DataError(
            f"{table.label}, row {row + 1}: column {column.name!r} has an empty {role}; "
            "every row needs one."
        )
    return codes


def _ratings(frame: pl.DataFrame, table: Table, place: np.ndarray | None) -> np.ndarray:
    column = frame.drop_in_place(RATING)
    row = _first_row(column.is_null() | ~column.is_finite())
    if row is not None:
        expected = "expected a finite number as rating"
        raise _wrong(table, RATING, _physical(row, place), expected)
    return column.to_numpy()


def _timestamps(frame: pl.DataFrame, table: Table, place: np.ndarray | None) -> np.ndarray:
    column = frame.drop_in_place(TIMESTAMP)
    row = _first_row(column.is_null() | (column < 0))
    if row is not None:
        expected = "expected a time: seconds since 1970, not negative, or a date"
        raise _wrong(table, TIMESTAMP, _physical(row, place), expected)
    row = _first_row(column > LATEST)
    if row is not None:
        expected = "expected seconds up to the year 2200 (or name the timestamp_unit: ms, us, ns)"
        raise _wrong(table, TIMESTAMP, _physical(row, place), expected)
    return column.to_numpy()


def _physical(row: int, place: np.ndarray | None) -> int:
    """The row of the table that a row of the frame was before blank lines were dropped."""
    return row if place is None else int(place[row])


def _first_row(wrong: pl.Series) -> int | None:
    row = wrong.fill_null(True).arg_max() if len(wrong) else None
    return row if row is not None and wrong.fill_null(True)[row] else None


def _wrong(table: Table, role: str, row: int, expected: str) -> DataError:
    column = table.roles[role]
    shown = table.frame.select(column).slice(row, 1).collect(engine="streaming")
    got = shown.to_series()[0] if len(shown) else None
    return DataError(
        f"{table.label}, row {row + 1}: {expected} in column {column!r}, got {got!r}. "
        f"Correct the row, name another column, or ignore this one ({OPTIONS[role]}='')."
    )
