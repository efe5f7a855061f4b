"""A log added up, against counting by hand and against a plain loop over its rows."""

from collections import defaultdict
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from made_up import START, crowd, events, experiment

from coterie.errors import DataError
from coterie.experiment.log import UnknownArms, everyone, summarize
from coterie.experiment.settings import DAY

CONTROL, PIA, NOWHERE = {"arm": "control"}, {"arm": "pia"}, {"experiment": None, "arm": None}
HOME = {**PIA, "surface": "home"}
WATCH = {**CONTROL, "seconds": 60.0}
ROWS = [
    ("1", "ann", "impression", 1, CONTROL),
    ("2", "ann", "click", 2, CONTROL),
    ("2", "ann", "click", 2, CONTROL),  # came twice
    ("3", "ann", "watch", 26, WATCH),
    ("4", "bob", "click", 3, NOWHERE),  # before entry
    ("5", "bob", "impression", 30, HOME),
    ("6", "bob", "click", 31, NOWHERE),  # after entry: the user is the unit
    ("7", "bob", "watch", -5, {**NOWHERE, "seconds": 7.0}),  # pre-period
    ("8", "bob", "click", -24 * 20, NOWHERE),  # before the pre-period
    ("9", "eve", "click", 4, CONTROL),
    ("10", "eve", "click", 5, PIA),  # two arms
    ("11", "sue", "click", 6, {"experiment": "other", "arm": "x"}),  # never enters
    ("12", "tom", "click", 24 * 11, PIA),  # after the end
]
USED = {"surfaces": ["home"]}


def sums_of(log, user, sums):
    row = log.users.to_list().index(user)
    return dict(zip([(c.kind, c.seconds, c.surface) for c in log.columns], sums[row], strict=True))


def totals(log):
    *_, (_, _, sums) = log.by_day()
    return sums


def test_counted_by_hand():
    log = summarize(events(ROWS), experiment(**USED))
    assert log.users.to_list() == ["ann", "bob"]
    assert log.arm.tolist() == [0, 1]
    assert log.entry_day.tolist() == [0, 1]
    assert log.days == 2
    ann, bob = (sums_of(log, user, totals(log)) for user in ("ann", "bob"))
    assert ann[("impression", False, None)] == 1
    assert ann[("click", False, None)] == 1
    assert ann[("watch", True, None)] == 60
    assert bob[("impression", False, "home")] == 1
    assert bob[("click", False, None)] == 1
    assert bob[("click", False, "home")] == 0
    assert sums_of(log, "bob", log.before)[("watch", True, None)] == 7
    assert sums_of(log, "bob", log.before)[("click", False, None)] == 0
    facts = log.facts
    assert (facts.events, facts.duplicates) == (13, 1)
    assert (facts.before_entry, facts.crossed_users, facts.outside_users) == (1, 1, 1)
    assert log.users_by_arm().tolist() == [1, 1]


def test_order_and_repetition_change_nothing():
    frame = crowd(200, seed=3)
    shuffled = pl.concat([frame, frame.sample(fraction=0.3, seed=1)]).sample(
        fraction=1.0, shuffle=True, seed=2
    )
    one, other = (summarize(f.lazy(), experiment()) for f in (frame, shuffled))
    assert other.facts.duplicates == round(0.3 * len(frame))
    assert one.users.equals(other.users)
    assert (totals(one) == totals(other)).all()
    assert (one.before == other.before).all()


def test_against_a_plain_loop():
    window = {"name": "early", "numerator": "clicks", "window_days": 1.5, "surface": "home"}
    one = experiment(metrics=[window], pre_period_days=4)
    frame = crowd(150, seed=5)
    log = summarize(frame.lazy(), one)
    entry, counted, before = {}, defaultdict(float), defaultdict(float)
    for row in frame.sort("time").iter_rows(named=True):
        if row["experiment"] == "pia" and one.start <= row["time"] < one.end:
            entry.setdefault(row["user"], row["time"])
    for row in frame.iter_rows(named=True):
        user, time = row["user"], row["time"]
        if user not in entry or row["kind"] != "click" or row["surface"] != "home":
            continue
        if entry[user] <= time < min(one.end, entry[user] + timedelta(days=1.5)):
            counted[user] += 1
        if one.start - timedelta(days=4) <= time < one.start:
            before[user] += 1
    at = [column.window_days for column in log.columns].index(1.5)
    assert log.users.to_list() == sorted(entry)
    assert totals(log)[:, at].tolist() == [counted[user] for user in log.users]
    assert log.before[:, at].tolist() == [before[user] for user in log.users]
    assert sum(counted.values()) > 30


def test_a_ratio_of_two_surfaces_against_a_plain_loop():
    ratio = {"name": "m", "numerator": "clicks", "numerator_surface": "home"}
    one = experiment(metrics=[{**ratio, "denominator": "impressions"}])
    frame = crowd(100, seed=5)
    log = summarize(frame.lazy(), one)
    found = log.values(one.every_metric["m"].terms, totals(log)).sum(axis=0)
    rows = [row for row in frame.iter_rows(named=True) if one.start <= row["time"] < one.end]
    home = sum(row["kind"] == "click" and row["surface"] == "home" for row in rows)
    assert found.tolist() == [home, sum(row["kind"] == "impression" for row in rows)]
    assert home > 30


def test_days_add_up():
    log = summarize(crowd(150, seed=6).lazy(), experiment())
    for day, entered, sums in log.by_day():
        cut = START + (day + 1) * DAY
        until = summarize(crowd(150, seed=6).lazy(), experiment(), through=cut)
        assert log.users.filter(pl.Series(entered)).equals(until.users)
        assert (sums[entered] == totals(until)).all()


def test_values_of_terms():
    one = experiment()
    log = summarize(events(ROWS), one)
    terms = one.every_metric["ctr_per_user"].terms
    many = np.full((2, len(log.columns)), 3.0)
    many[0] = 0
    assert log.values(terms, many).tolist() == [[0.0], [1.0]]
    assert many[1, 0] == 3.0  # the sums themselves stay


def test_everyone_enters_with_the_first_event():
    log = everyone(crowd(100, seed=1).lazy(), experiment())
    assert log.users_by_arm().tolist() == [len(log.users)]
    assert log.entry_day.min() == 0
    assert log.days == 20
    kinds = crowd(100, seed=1)["kind"].value_counts()
    found = dict(kinds.iter_rows())
    names = [column.kind for column in log.columns]
    assert totals(log)[:, names.index("click")].sum() == found["click"]


def test_one_event_of_a_wrong_time_does_not_stretch_a_plan():
    late = events(
        [("late", "u", "click", 0, {"arm": "pia", "time": START + timedelta(days=20_000)})]
    )
    with pytest.raises(DataError, match="over 3,660 days: is the time"):
        everyone(pl.concat([crowd(100).lazy(), late.lazy()]), experiment())


@pytest.mark.parametrize("arm", ["a", "zzz"])
def test_a_few_users_in_an_unknown_arm_are_left_out_and_counted(arm):
    """Whether the name sorts before those of the experiment or after, alone or beside another."""
    frame = crowd(300, seed=4).filter(pl.col("time") >= START)
    clean = summarize(frame.lazy(), experiment())
    first, second, third = clean.users[:3]
    stray = pl.when(pl.col("user") == first).then(pl.lit(arm))
    also = (
        frame.filter(pl.col("user") == second)
        .head(1)
        .with_columns(arm=pl.lit(arm), event_id=pl.lit("stray"))
    )
    found = summarize(
        pl.concat([frame.with_columns(arm=stray.otherwise("arm")), also]).lazy(), experiment()
    )
    assert found.facts.unknown_arms == {arm: 2}
    assert (found.facts.crossed_users, found.facts.outside_users) == (0, 0)
    assert found.users.to_list() == clean.users.to_list()[2:]
    assert found.users[0] == third
    assert (totals(found) == totals(clean)[2:]).all()
    many = pl.when(pl.col("user").is_in(clean.users[:4].to_list())).then(pl.lit(arm))
    with pytest.raises(UnknownArms, match=f"4 of {len(clean.users)} users .* '{arm}' 4"):
        summarize(frame.with_columns(arm=many.otherwise("arm")).lazy(), experiment())


def test_users_whose_arm_is_not_the_hashs_are_counted_and_stay():
    frame = crowd(300, seed=4).filter(pl.col("time") >= START)
    clean = summarize(frame.lazy(), experiment())
    assert (clean.facts.contradicted_users, clean.facts.contradicted) == (0, None)
    of_control = clean.users.filter(pl.Series(clean.arm == 0))[1:3].to_list()
    moved = pl.when(pl.col("user").is_in(of_control)).then(pl.lit("pia")).otherwise("arm")
    found = summarize(frame.with_columns(arm=moved).lazy(), experiment())
    assert found.facts.contradicted_users == 2
    assert found.facts.contradicted == {"user": of_control[0], "arm": "pia", "by_hash": "control"}
    assert (found.users_by_arm() - clean.users_by_arm()).tolist() == [-2, 2]
    ramp = summarize(frame.lazy(), experiment(exposed=0.5))
    assert 100 < ramp.facts.contradicted_users < 200
    assert ramp.facts.contradicted["by_hash"] is None


def test_logs_without_use():
    with pytest.raises(DataError, match="Nobody in the log entered 'pia'"):
        summarize(events([("1", "ann", "click", 3, NOWHERE)]), experiment())
    with pytest.raises(UnknownArms, match=r"1 of 1 users of 'pia' .*: 'c' 1; it has: control, pia"):
        summarize(events([("1", "ann", "click", 3, {"arm": "c"})]), experiment())
    with pytest.raises(DataError, match="Nobody"):
        summarize(events([]), experiment())
    with pytest.raises(DataError, match="The log is empty"):
        everyone(events([]), experiment())
