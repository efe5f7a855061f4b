"""A log of events → what each user did since entering the experiment, and before it.

A user enters at the first event that carries the experiment's name and an arm. From then on all of
the user's events count, labelled or not, because the user is the unit that was randomised. Events
with one ``event_id`` count once; users with events in two arms are counted and left out. So are a
few users in arms that the experiment does not have, as from before it was configured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coterie.data.guard import reading
from coterie.errors import DataError
from coterie.experiment.assignment import OUTSIDE, places_of
from coterie.experiment.events import check_events
from coterie.experiment.settings import DAY, Column, Experiment, Metric, Term

ROW, DAY_COLUMN = "row", "day"
SHOWN = 5  # arms in a message
COUNTED = (Column("impression"), Column("click"))  # whatever the metrics are
MOST_PLANNED = timedelta(days=3660)  # of a log to plan from; each day is looked at
MOST_UNKNOWN = 0.01
"""Share of the users who may be in arms that the experiment lacks, and be left out."""


class NobodyEntered(DataError):
    """The log has no event of the experiment."""


class UnknownArms(DataError):
    """Too many users are in arms that the experiment lacks: the file is not of this log."""


@dataclass(frozen=True)
class LogFacts:
    """What was read, and what was left out.

    Parameters
    ----------
    events
        Rows of the log.
    duplicates
        Rows whose ``event_id`` had come before.
    first, last
        Times of the log; None if it is empty.
    before_entry
        Events of the experiment's users after its start and before they entered: excluded.
    outside_users
        Users with events in the period that never entered.
    crossed_users
        Users with events in two arms, or more: excluded.
    contradicted_users
        Users whose arm in the log is not the one that the hash gives: they count, in the log's.
    contradicted
        One of them: ``user``, ``arm``, and ``by_hash`` (None: takes no part).
    unknown_arms
        By arm that the experiment lacks, the users with events in it: excluded, and not counted
        as crossed.
    through
        What happened from then on was left out; None: all was read.
    """

    events: int
    duplicates: int
    first: datetime | None
    last: datetime | None
    before_entry: int = 0
    outside_users: int = 0
    crossed_users: int = 0
    contradicted_users: int = 0
    contradicted: Mapping[str, str | None] | None = None
    unknown_arms: Mapping[str, int] = field(default_factory=dict)
    through: datetime | None = None


@dataclass(frozen=True)
class UserLog:
    """Per-user sums: those of the pre-period, and those of each day since the start.

    Parameters
    ----------
    users
        Ids, String ``[U]``, in ascending order.
    arm
        Place of each user's arm, int64 ``[U]``.
    entry_day
        Day of entry, counted from the experiment's start, int64 ``[U]``.
    columns
        What was added up, ``C`` of them.
    daily
        A row per user and day with events: ``row`` (place in ``users``), ``day``, and the sums
        ``0`` … ``C − 1``; ordered by day.
    before
        Sums of the pre-period, float64 ``[U, C]``.
    days
        Number of days that the log covers, the last perhaps in part.
    n_arms
        Arms of the experiment, with or without users.
    facts
        What was read and left out.
    """

    users: pl.Series
    arm: NDArray[np.int64]
    entry_day: NDArray[np.int64]
    columns: tuple[Column, ...]
    daily: pl.DataFrame
    before: NDArray[np.float64]
    days: int
    n_arms: int
    facts: LogFacts

    def users_by_arm(self) -> NDArray[np.int64]:
        """Number of users that entered, int64 ``[n_arms]``."""
        return np.bincount(self.arm, minlength=self.n_arms)

    def totals(self, column: Column) -> NDArray[np.float64]:
        """Sums of a column since entry, by arm, float64 ``[n_arms]``."""
        sums = self.daily[str(self.columns.index(column))].to_numpy()
        arm = self.arm[self.daily[ROW].to_numpy()]
        return np.bincount(arm, sums, minlength=self.n_arms).astype(np.float64)

    def by_day(self) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.float64]]]:
        """Day by day: the day, who has entered ``[U]``, and the sums until its end ``[U, C]``.

        The sums are one array that grows; copy what is to be kept.
        """
        totals = np.zeros((len(self.users), len(self.columns)))
        names = [str(at) for at in range(len(self.columns))]
        parts = self.daily.partition_by(DAY_COLUMN, as_dict=True, include_key=False)
        for day in range(self.days):
            part = parts.get((day,))
            if part is not None:
                totals[part[ROW].to_numpy()] += part.select(names).to_numpy()
            yield day, self.entry_day <= day, totals

    def values(self, terms: Sequence[Term], sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The terms' values ``[U, T]`` of sums ``[U, C]``."""
        made = sums[:, [self.columns.index(term.column) for term in terms]]
        any_ = [at for at, term in enumerate(terms) if term.any]
        made[:, any_] = made[:, any_] > 0
        return made


def summarize(
    events: pl.LazyFrame, experiment: Experiment, *, through: datetime | None = None
) -> UserLog:
    """Add up the log per user, streaming: neither all events nor their order is held.

    Parameters
    ----------
    events
        As :func:`~coterie.experiment.events.read_events` gives them.
    experiment
        Its name, arms, period and metrics.
    through
        Look only at what happened before this time (or the experiment's end).

    Raises
    ------
    DataError
        The log breaks the rules; as :class:`UnknownArms`, over 1 % of the users are in arms that
        the experiment lacks; as :class:`NobodyEntered`, it has no users.
    """
    events, checked = _deduplicated(events)
    end = min(experiment.end, through) if through is not None else experiment.end
    inside = events.filter(pl.col("time").is_between(experiment.start, end, closed="left"))
    with reading("The log"):
        entries, crossed, unknown = _entries(inside, experiment)
    metrics = tuple(experiment.every_metric.values())
    start = experiment.start
    earliest = start - timedelta(days=experiment.pre_period_days)
    earlier = events.filter(pl.col("time").is_between(earliest, start, closed="left"))
    with reading("The log"):
        sums = _sums(inside, earlier, entries, metrics, start)
    return UserLog(
        users=entries["user"],
        arm=entries["place"].to_numpy(),
        entry_day=_day(entries["entry"], start).to_numpy(),
        columns=columns_of(metrics),
        daily=sums.daily,
        before=sums.before,
        days=(sums.last - start) // DAY + 1,
        n_arms=len(experiment.arms),
        facts=_facts(
            checked,
            before_entry=sums.early_events,
            outside_users=sums.present - len(entries) - crossed - sum(unknown.values()),
            crossed_users=crossed,
            **_contradicted(entries, experiment),
            unknown_arms=unknown,
            through=through,
        ),
    )


def everyone(events: pl.LazyFrame, experiment: Experiment) -> UserLog:
    """The whole log as of one arm, each user entering with the first event; for planning.

    Raises
    ------
    DataError
        The log breaks the rules, or is empty.
    """
    events, checked = _deduplicated(events)
    start = checked["first"].item()
    if start is None:
        raise DataError("The log is empty: there is nothing to plan from.")
    last = checked["last"].item()
    if last - start > MOST_PLANNED:
        raise DataError(
            f"The log reaches from {start} to {last}, over {MOST_PLANNED.days:,} days: is the time "
            "of an event wrong? Leave out what is not of the site as it is now."
        )
    metrics = tuple(experiment.every_metric.values())
    with reading("The log"):
        entries = (
            events.group_by("user")
            .agg(pl.col("time").min().alias("entry"))
            .sort("user")
            .with_columns(pl.lit(0, pl.Int64).alias("place"))
            .with_row_index(ROW)
            .collect(engine="streaming")
        )
        sums = _sums(events, events.clear(), entries, metrics, start)
    return UserLog(
        users=entries["user"],
        arm=entries["place"].to_numpy(),
        entry_day=_day(entries["entry"], start).to_numpy(),
        columns=columns_of(metrics),
        daily=sums.daily,
        before=sums.before,
        days=(sums.last - start) // DAY + 1,
        n_arms=1,
        facts=_facts(checked),
    )


def columns_of(metrics: Sequence[Metric]) -> tuple[Column, ...]:
    """What has to be added up: impressions, clicks, and what the metrics need; each once."""
    needed = [term.column for metric in metrics for term in metric.terms]
    return tuple(dict.fromkeys((*COUNTED, *needed)))


def _deduplicated(events: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.DataFrame]:
    checked = check_events(events)
    if checked["events"].item() != checked["distinct"].item():
        events = events.unique("event_id", keep="first")
    return events, checked


def _entries(
    inside: pl.LazyFrame, experiment: Experiment
) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Who entered when, in which arm (``row``, ``user``, ``place``, ``entry``).

    And how many users are in two arms, and how many in each arm that the experiment lacks.
    """
    places = {name: at for at, name in enumerate(experiment.arm_names)}
    found = (
        inside.filter(pl.col("experiment") == experiment.name)
        .group_by("user")
        .agg(
            pl.col("time").min().alias("entry"),
            pl.col("arm").min(),
            pl.col("arm").n_unique().alias("arms"),
            pl.col("arm").filter(~pl.col("arm").is_in(list(places))).min().alias("unknown"),
        )
        .sort("user")
        .collect(engine="streaming")
    )
    if not len(found):
        raise NobodyEntered(
            f"Nobody in the log entered {experiment.name!r} between {experiment.start} and "
            f"{experiment.end}: no event of that time has experiment {experiment.name!r}."
        )
    unknown = dict(
        found["unknown"]
        .drop_nulls()
        .value_counts()
        .sort("count", "unknown", descending=[True, False])
        .iter_rows()
    )
    if sum(unknown.values()) > MOST_UNKNOWN * len(found):
        raise UnknownArms(
            f"{sum(unknown.values()):,} of {len(found):,} users of {experiment.name!r} are in arms "
            f"that it does not have: {arms_text(unknown)}; it has: {', '.join(places)}. Up to "
            f"{100 * MOST_UNKNOWN:g} % would be left out. Give the arms as they were when the "
            "events came about, or take those users out of the log."
        )
    known = found.filter(pl.col("unknown").is_null())
    once = known.filter(pl.col("arms") == 1)
    place = pl.col("arm").replace_strict(places, return_dtype=pl.Int64).alias("place")
    entries = once.select("user", "entry", place).with_row_index(ROW)
    return entries, len(known) - len(once), unknown


def _contradicted(entries: pl.DataFrame, experiment: Experiment) -> dict[str, Any]:
    """Who is in another arm than the hash gives: how many users, and the first of them."""
    hashed = places_of(experiment, entries["user"])
    others = np.flatnonzero(hashed != entries["place"].to_numpy())
    if not len(others):
        return {}
    names = {OUTSIDE: None, **dict(enumerate(experiment.arm_names))}
    _, user, _, place = entries.row(int(others[0]))
    example = {"user": user, "arm": names[place], "by_hash": names[int(hashed[others[0]])]}
    return {"contradicted_users": len(others), "contradicted": example}


def arms_text(users: Mapping[str, int]) -> str:
    """Users by arm in words, the first few of them."""
    shown = [f"{arm!r} {count:,}" for arm, count in list(users.items())[:SHOWN]]
    return ", ".join([*shown, "…"] if len(users) > SHOWN else shown)


def _facts(checked: pl.DataFrame, **left_out: Any) -> LogFacts:
    (row,) = checked.to_dicts()
    duplicates = row["events"] - row.pop("distinct")
    return LogFacts(**{**row, **left_out}, duplicates=duplicates)


@dataclass(frozen=True)
class _Sums:
    daily: pl.DataFrame
    before: NDArray[np.float64]
    early_events: int  # of users that entered, before they did
    present: int  # users in the period
    last: datetime


def _sums(
    inside: pl.LazyFrame,
    earlier: pl.LazyFrame,
    entries: pl.DataFrame,
    metrics: Sequence[Metric],
    start: datetime,
) -> _Sums:
    """One pass over the log for all of it."""
    columns = columns_of(metrics)
    of_users = inside.join(entries.lazy(), on="user", how="inner")
    since = pl.col("time") >= pl.col("entry")
    sums = [_sum(column, since_entry=True).alias(str(at)) for at, column in enumerate(columns)]
    pre = [_sum(column, since_entry=False).alias(str(at)) for at, column in enumerate(columns)]
    daily, before, early, there = pl.collect_all(
        [
            of_users.filter(since)
            .group_by(ROW, _day(pl.col("time"), start).alias(DAY_COLUMN))
            .agg(sums)
            .sort(DAY_COLUMN, ROW),
            earlier.join(entries.lazy(), on="user", how="inner").group_by(ROW).agg(pre),
            of_users.filter(~since).select(pl.len()),
            inside.select(pl.col("user").n_unique(), pl.col("time").max()),
        ],
        engine="streaming",
    )
    filled = np.zeros((len(entries), len(columns)))
    filled[before[ROW].to_numpy()] = before.drop(ROW).to_numpy()
    present, last = there.row(0)
    return _Sums(daily, filled, early.item(), present, last)


def _sum(column: Column, *, since_entry: bool) -> pl.Expr:
    counts = pl.col("kind") == column.kind
    if column.surface is not None:
        counts &= (pl.col("surface") == column.surface).fill_null(False)
    if column.window_days is not None and since_entry:
        counts &= pl.col("time") < pl.col("entry") + timedelta(days=column.window_days)
    what = pl.col("seconds").filter(counts) if column.seconds else counts
    return what.sum().cast(pl.Float64)


def _day(time: Any, start: datetime) -> Any:
    """Whole days since the start."""
    return (time - start).dt.total_days().cast(pl.Int64)
