"""What users did: one event, and logs of them from Parquet or JSON lines, checked as they stream.

The unit of everything after this is the user; :mod:`coterie.experiment.log` adds up each one's.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_args

import polars as pl
from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from coterie.config import Config
from coterie.data.guard import existing, reading
from coterie.errors import ConfigError, DataError
from coterie.experiment.settings import Kind, Name

KINDS = get_args(Kind)
TIME = pl.Datetime("us", "UTC")
SCHEMA: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "user": pl.String(),
    "kind": pl.String(),
    "time": TIME,
    "item": pl.String(),
    "surface": pl.String(),
    "seconds": pl.Float64(),
    "experiment": pl.String(),
    "arm": pl.String(),
}
"""Columns of a log; the first four have a value in every row."""
FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MOST_SECONDS = 1_000_000
"""Beyond these a clock or a unit is wrong, and one such event would spoil a whole analysis."""
REQUIRED = ("event_id", "user", "kind", "time")
ISO = "%+"  # ISO 8601 with an offset or Z
TEXT = (".jsonl", ".ndjson")
TEXT_SCHEMA = {name: pl.String() for name in SCHEMA} | {"seconds": pl.Float64()}
BLOCK = 10_000  # lines that are looked at together in search of the bad one
SHOWN = 200  # characters of it in a message
TABLES = (".parquet", ".pq")


def _spelled(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_spelled), Field(min_length=1, max_length=512)]


class BrokenRule(DataError):
    """An event breaks a rule, which it is called by."""

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class Event(Config):
    """One thing that a user saw or did; 12 and ``"12"`` are the same user and the same item."""

    event_id: Id = Field(description="Unique; an event that comes again with it counts once.")
    user: Id = Field(description="Who.")
    kind: Kind = Field(description="What happened.")
    time: AwareDatetime = Field(ge=FIRST, lt=LAST, description="When, with a time zone.")
    item: Id | None = Field(None, description="The item shown, clicked or watched.")
    surface: Name | None = Field(None, description="Where on the site.")
    seconds: float | None = Field(
        None, ge=0, le=MOST_SECONDS, description="Of a watch: for how long."
    )
    experiment: Name | None = Field(None, description="The experiment that the user is in.")
    arm: Name | None = Field(None, description="The user's arm there.")

    @model_validator(mode="after")
    def _complete(self) -> "Event":
        if (self.kind == "watch") != (self.seconds is not None):
            raise ConfigError(
                f"a watch has seconds, and only a watch; got kind {self.kind!r} with seconds "
                f"{self.seconds}."
            )
        if (self.experiment is None) != (self.arm is None):
            raise ConfigError(
                f"experiment and arm come together; got {self.experiment!r} and {self.arm!r}."
            )
        return self


def read_events(paths: Sequence[Path]) -> pl.LazyFrame:
    """A log in one or several files, with the columns of :data:`SCHEMA`; nothing is held yet.

    JSON lines are checked here, because only here it is known in which file and line they are.

    Raises
    ------
    DataError
        A file is missing or of another kind, a column is missing or of the wrong type, or a time
        has no zone; a line is no event: the message names file and line.
    """
    if not paths:
        raise DataError("A log of events is needed: Parquet or JSON lines.")
    frames = []
    for path in map(existing, paths):
        with reading(str(path)):
            frames.append(_frame(_scan(path), str(path)))
        if path.suffix in TEXT:
            try:
                check_events(frames[-1])
            except DataError as error:
                raise _at_line(path, error) from error
    return pl.concat(frames)


def events_frame(events: Sequence[Event]) -> pl.LazyFrame:
    """Events in memory as a log."""
    rows = [event.model_dump() for event in events]
    return pl.DataFrame(rows, schema=SCHEMA).lazy()


def _scan(path: Path) -> pl.LazyFrame:
    if path.suffix in TABLES:
        return pl.scan_parquet(path, glob=False)
    if path.suffix in TEXT:
        return pl.scan_ndjson(path, schema=TEXT_SCHEMA)
    raise DataError(f"{path}: a log ends in {', '.join((*TABLES, *TEXT))}.")


def _at_line(path: Path, error: DataError) -> DataError:
    """The error, with the first line that makes it."""
    rule = error.rule if isinstance(error, BrokenRule) else None
    before = 0
    with path.open("rb") as file:
        while block := list(islice(file, BLOCK)):
            if _fault(block, rule):
                sizes = range(1, len(block) + 1)
                size = sizes[bisect_left(sizes, True, key=lambda n: bool(_fault(block[:n], rule)))]
                where = f"{path}, line {before + size}"
                if rule is not None:
                    return DataError(f"{where}: {error}")
                line = block[size - 1]
                text = line.decode(errors="replace").strip()[:SHOWN]
                return DataError(
                    f"{where}: {_fault([line], rule)}. A line is one event, a JSON object; got: "
                    f"{text}"
                )
            before += len(block)
    return error


def _fault(lines: list[bytes], rule: str | None) -> str:
    """How lines break this rule; of None, why they cannot be read. Empty if they do not."""
    try:
        check_events(_frame(pl.read_ndjson(b"".join(lines), schema=TEXT_SCHEMA).lazy(), ""))
    except BrokenRule as error:
        return str(error) if error.rule == rule else ""
    except pl.exceptions.PolarsError as error:
        return str(error) if rule is None else ""
    return ""


def _frame(raw: pl.LazyFrame, label: str) -> pl.LazyFrame:
    found = raw.collect_schema()
    if missing := [name for name in REQUIRED if name not in found]:
        raise DataError(
            f"{label} lacks the column {missing[0]!r}; it has: {', '.join(found.names())}."
        )
    columns = []
    for name, dtype in SCHEMA.items():
        if name not in found:
            columns.append(pl.lit(None, dtype).alias(name))
            continue
        columns.append(_column(name, found[name], label))
    return raw.select(columns)


def _column(name: str, found: pl.DataType, label: str) -> pl.Expr:
    column = pl.col(name)
    if name == "time":
        return _time(column, found, label)
    if name == "seconds":
        if found.is_numeric() or found == pl.Null:
            return column.cast(pl.Float64)
    elif found in (pl.String, pl.Categorical, pl.Enum, pl.Null) or found.is_integer():
        return column.cast(pl.String)
    raise DataError(f"{label}: column {name!r} is {SCHEMA[name]}, got {found}.")


def _time(column: pl.Expr, found: pl.DataType, label: str) -> pl.Expr:
    if found == pl.String:  # without a zone it becomes null, which the check reports
        return column.str.to_datetime(ISO, time_unit="us", time_zone="UTC", strict=False)
    if isinstance(found, pl.Datetime) and found.time_zone is not None:
        return column.dt.convert_time_zone("UTC").cast(TIME)
    raise DataError(
        f"{label}: times need a time zone (a UTC timestamp, or text as 2026-03-01T10:00:00Z), got "
        f"{found}."
    )


def check_events(events: pl.LazyFrame) -> pl.DataFrame:
    """One row: ``events``, ``distinct`` (event ids), ``first`` and ``last`` (times).

    Raises
    ------
    DataError
        A row breaks the rules of :class:`Event`; the message says how many, and shows one.
    """
    rules = _rules()
    with reading("The log"):
        checked = events.select(
            pl.len().alias("events"),
            pl.col("event_id").n_unique().alias("distinct"),
            pl.col("time").min().alias("first"),
            pl.col("time").max().alias("last"),
            *(broken.sum().alias(rule) for rule, broken in rules.items()),
        ).collect(engine="streaming")
    for rule, broken in rules.items():
        if count := checked[rule].item():
            row = events.filter(broken).head(1).collect(engine="streaming").row(0, named=True)
            said = (f"{name} {value}" for name, value in row.items() if value is not None)
            shown = ", ".join(said) or "an empty one"
            raise BrokenRule(f"{count:,} events of the log {rule}, for example: {shown}.", rule)
    return checked.select("events", "distinct", "first", "last")


def _rules() -> dict[str, pl.Expr]:
    """What a row may not do → whether it does."""
    seconds, watch = pl.col("seconds"), pl.col("kind") == "watch"
    return {
        "have no event_id": pl.col("event_id").is_null(),
        "have no user": pl.col("user").is_null(),
        "have no time with a time zone (as 2026-03-01T10:00:00Z)": pl.col("time").is_null(),
        f"have a time before {FIRST.year} or from {LAST.year} on": ~pl.col("time")
        .is_between(FIRST, LAST, closed="left")
        .fill_null(True),
        f"are of no kind that is known ({', '.join(KINDS)})": ~pl.col("kind")
        .is_in(KINDS)
        .fill_null(False),
        "are watches without seconds": watch & seconds.is_null(),
        "have seconds, but are no watch": ~watch & seconds.is_not_null(),
        f"have seconds below 0 or above {MOST_SECONDS:,}": ~seconds.is_between(0, MOST_SECONDS),
        "have an experiment without arm, or an arm without experiment": (
            pl.col("experiment").is_null() != pl.col("arm").is_null()
        ),
    }
