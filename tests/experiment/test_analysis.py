from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from made_up import START, crowd, experiment

from coterie.experiment.analysis import analyze
from coterie.experiment.effect import Effect, Indices, estimates
from coterie.experiment.log import summarize
from coterie.experiment.moments import Moments
from coterie.experiment.sequential import multiplier

GUARD = {"guardrails": [{"metric": "ctr_per_user", "margin": 0.2}]}


def analysis(frame, *, now=None, **changes):
    one = experiment(**changes)
    return analyze(summarize(frame.lazy(), one), one, now=now)


def by_name(found, arm="pia"):
    return {r.comparison.metric.name: r for r in found.results if r.comparison.arm == arm}


@pytest.fixture(scope="module")
def lifted():
    return crowd(3000, lift=0.5, seed=1)


def per_user(frame, one):
    """Clicks, impressions, and both before the start, by a group-by of the whole log."""
    inside = pl.col("time").is_between(one.start, one.end, closed="left")
    columns = [
        (when & (pl.col("kind") == kind)).sum().cast(pl.Float64).alias(f"{kind}{at}")
        for at, when in enumerate((inside, pl.col("time") < one.start))
        for kind in ("click", "impression")
    ]
    table = frame.group_by("user").agg(pl.col("arm").drop_nulls().first(), *columns)
    table = table.filter(pl.col("arm").is_not_null())
    return [table.filter(arm=arm).drop("user", "arm").to_numpy() for arm in one.arm_names]


@pytest.mark.parametrize("days", [0, 10])
def test_the_whole_chain_against_a_group_by(lifted, days):
    one = experiment(pre_period_days=days)
    found = by_name(analysis(lifted, pre_period_days=days))["ctr_per_impression"]
    arms = [Moments.of(values) for values in per_user(lifted, one)]
    expected = Effect(*estimates(arms, Indices(0, 1, (2, 3) if days else ())))
    effect = found.comparison.effect
    assert (effect.control.n, effect.treatment.n) == (arms[0].n, arms[1].n)
    assert effect.lift == pytest.approx(expected.lift)
    assert effect.se == pytest.approx(expected.se)
    assert found.interval.low == pytest.approx(
        expected.lift_interval(multiplier(expected.relative_se, 0.02, 0.05)).low
    )
    reduced = found.comparison.variance_reduction
    assert reduced is None if days == 0 else 0.1 < reduced < 0.9


def test_a_lift_is_found_and_the_rest_told_apart(lifted):
    found = analysis(lifted, minimum_effect=0.2, surfaces=["home"], **GUARD)
    assert [r.role for r in found.results] == ["primary", "guardrail"] + ["secondary"] * 3
    results = by_name(found)
    assert results["ctr_per_impression"].verdict == "better"
    assert results["ctr_per_user"].verdict == "held"
    assert results["ctr_per_impression.home"].verdict == "better"
    assert results["watch_seconds_per_user"].verdict == "no data"
    assert 0.5 in results["ctr_per_impression"].interval
    assert found.finished


def test_corrections_are_within_roles(lifted):
    found = analysis(lifted, surfaces=["home", "movie"], **GUARD)
    groups = {role: [] for role in ("primary", "guardrail", "secondary")}
    for result in found.results:
        groups[result.role].append(result)
    for alone in groups["primary"] + groups["guardrail"]:
        assert alone.p_value == alone.p_uncorrected
    p = np.array([r.p_uncorrected for r in groups["secondary"]])
    p = p[~np.isnan(p)]
    assert len(p) == 4
    adjusted = np.array([r.p_value for r in groups["secondary"]])
    order = np.sort(p)
    expected = min(order[at] * 4 / (at + 1) for at in range(4))
    assert np.nanmin(adjusted) == pytest.approx(expected)


def test_lower_can_be_better(lifted):
    bad = {"name": "clicks", "numerator": "clicks", "better": "lower"}
    found = analysis(lifted, metrics=[bad], primary="clicks", guardrails=[], minimum_effect=0.2)
    assert by_name(found)["clicks"].verdict == "worse"
    guarded = analysis(
        lifted, metrics=[bad], guardrails=[{"metric": "clicks", "margin": 0.05}], minimum_effect=0.2
    )
    assert by_name(guarded)["clicks"].verdict == "violated"
    wide = analysis(lifted, metrics=[bad], guardrails=[{"metric": "clicks", "margin": 0.5}])
    assert by_name(wide)["clicks"].verdict == "open"


def test_two_treatments_are_both_compared_and_holm_corrected(lifted):
    arms = {"control": 0.5, "pia": 0.25, "other": 0.25}
    third = pl.col("user").str.ends_with("1") & (pl.col("arm") == "pia")
    frame = lifted.with_columns(arm=pl.when(third).then(pl.lit("other")).otherwise("arm"))
    found = analysis(frame, arms={**arms, "pia": 0.45, "other": 0.05})
    primary = [r for r in found.results if r.role == "primary"]
    assert [r.comparison.arm for r in primary] == ["pia", "other"]
    p = [r.p_uncorrected for r in primary]
    assert min(r.p_value for r in primary) == pytest.approx(2 * min(p))


def test_an_experiment_that_is_decided_at_its_end(lifted):
    until = START + timedelta(days=5)
    one = experiment(decision="end")
    early = analyze(summarize(lifted.lazy(), one, through=until), one)
    assert not early.finished
    assert {r.verdict for r in early.results} == {"too early", "no data"}
    late = analysis(lifted, decision="end")
    primary = late.results[0]
    assert primary.verdict == "better"
    assert primary.interval == primary.comparison.once
    assert primary.p_uncorrected == primary.comparison.p_once
    assert primary.comparison.anytime.low < primary.interval.low


def test_the_end_is_a_matter_of_the_clock_and_not_of_who_comes(lifted):
    end = experiment().end
    last_day = end - timedelta(hours=1)
    during = analysis(lifted, decision="end", now=last_day)
    assert (during.days, during.finished) == (10, False)
    assert {r.verdict for r in during.results} == {"too early", "no data"}
    quiet = lifted.filter(pl.col("time") < end - timedelta(days=2))
    after = analysis(quiet, decision="end", now=end)
    assert (after.days, after.finished, after.results[0].verdict) == (8, True, "better")
    one = experiment(decision="end")
    for through, finished in ((last_day, False), (end, True)):
        log = summarize(lifted.lazy(), one, through=through)
        assert analyze(log, one, now=end + timedelta(days=9)).finished is finished


def test_a_mismatch_voids_every_verdict():
    found = analysis(crowd(6000, lift=0.5, keep=(1.0, 0.85), seed=2, days=3))
    assert found.mismatch.alarm
    assert {r.verdict for r in found.results} == {"not valid"}


def test_few_users_are_too_few():
    found = analysis(crowd(300, lift=1.0, seed=3))
    assert {r.verdict for r in found.results} == {"too early"}
    assert {r.verdict for r in analysis(crowd(300, lift=1.0), least_users=50).results} != {
        "too early"
    }


def test_an_arm_without_users_is_too_early_or_a_mismatch():
    frame = crowd(400, seed=3).filter(pl.col("arm").ne_missing("pia"))
    found = analysis(frame)
    assert found.mismatch.alarm
    assert {r.verdict for r in found.results} == {"not valid"}


def test_the_curve_ends_with_the_verdicts(lifted):
    one = experiment()
    found = analysis(lifted)
    assert [p.day for p in found.curve if p.metric == "ctr_per_user"] == list(range(10))
    last = {p.metric: p for p in found.curve if p.day == 9}
    for name, result in by_name(found).items():
        if result.verdict != "no data":
            assert last[name].lift == result.comparison.effect.lift
    until = analyze(summarize(lifted.lazy(), one, through=START + timedelta(days=3)), one)
    third = [p for p in found.curve if (p.day, p.metric) == (2, "ctr_per_impression")]
    assert third[0].anytime.low == pytest.approx(until.results[0].comparison.anytime.low)
    widths = [p.anytime.high - p.anytime.low for p in found.curve if p.metric == "ctr_per_user"]
    assert widths[-1] < widths[1]


def test_no_lift_no_verdict():
    found = by_name(analysis(crowd(2000, seed=7), surfaces=["home"]))
    assert {result.verdict for result in found.values()} == {"undecided", "no data"}
