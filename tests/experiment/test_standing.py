"""How an experiment stands: the same figures as the analysis, and nothing said too early."""

import polars as pl
import pytest
from made_up import START, crowd, events, experiment

from coterie.experiment.analysis import analyze
from coterie.experiment.log import summarize
from coterie.experiment.record import record
from coterie.experiment.settings import DAY
from coterie.experiment.standing import standing


def test_figures_are_those_of_the_analysis():
    log, pia = crowd(2000, lift=0.3).lazy(), experiment()
    found, analysis = standing(log, pia), analyze(summarize(log, pia), pia)
    for shown, result in zip(found["results"], analysis.results, strict=True):
        effect = result.comparison.effect
        assert shown["metric"] == result.comparison.metric.name
        if result.verdict == "no data":
            assert shown["lift"] is None
            continue
        assert (shown["lift"], shown["p_value"]) == (effect.lift, result.p_value)
        assert (shown["low"], shown["high"]) == (result.interval.low, result.interval.high)
    assert len(found["days"]) == 10
    for day, points in enumerate(found["days"]):
        assert points["date"] == f"{START + day * DAY:%Y-%m-%d}"
    today = next(p for p in analysis.curve if (p.day, p.metric) == (4, "ctr_per_user"))
    then = next(p for p in found["days"][4]["results"] if p["metric"] == "ctr_per_user")
    assert (then["lift"], then["low"]) == (today.lift, today.anytime.low)
    assert sum(found["days"][4]["users"].values()) == today.users


def test_one_name_has_one_meaning_in_both_answers():
    """Several secondary metrics and a pre-period: corrected and adjusted differ from plain."""
    log, pia = crowd(2000, lift=0.3).lazy(), experiment(surfaces=["home", "movie"])
    analysis = analyze(summarize(log, pia), pia)
    told, known = standing(log, pia), record(analysis)
    for one, other in zip(told["results"], known["results"], strict=True):
        names = set(one) & set(other)
        assert names >= {"control_mean", "mean", "lift", "low", "high", "p_value", "sentence"}
        if other["verdict"] != "no data":
            assert {name: one[name] for name in names} == {name: other[name] for name in names}
        assert one["verdict"] == other["verdict"]
    assert any(one["p_value"] > one["p_uncorrected"] for one in known["results"])
    by_day = {(one["day"], one["metric"]): one for one in known["by_day"]}
    for one in told["days"][-1]["results"]:
        if one["lift"] is not None:
            assert one.items() <= by_day[10, one["metric"]].items()


def test_counts_begin_with_entry_and_need_no_metric_of_them():
    own = {"name": "ctr_per_impression", "numerator": "watches"}
    log = events(
        [
            ("a", "u", "click", 1, {"experiment": None, "arm": None}),  # before entry
            ("b", "u", "impression", 2, {"arm": "pia"}),
            ("c", "u", "click", 3, {"experiment": None, "arm": None}),
            ("d", "v", "impression", 2, {"arm": "control"}),
            ("d", "v", "impression", 2, {"arm": "control"}),  # came twice
        ]
    )
    found = standing(log, experiment(metrics=[own]))["arms"]
    assert [(arm["users"], arm["impressions"], arm["clicks"]) for arm in found] == [
        (1, 1, 0),
        (1, 1, 1),
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"least_users": 5000}, "5,000 users per arm"),
        ({"decision": "end"}, "its end"),
    ],
)
def test_too_early_is_null_and_says_why(changes, why):
    found = standing(crowd(2000).lazy(), experiment(**changes), now=START + 9.9 * DAY)
    for result in found["results"]:
        assert [result[key] for key in ("lift", "low", "high", "p_value")] == [None] * 4
    assert why in found["results"][0]["sentence"]
    assert found["results"][0]["verdict"] == "too early"
    assert found["results"][0]["mean"] > 0


def test_days_before_enough_users_are_null():
    found = standing(crowd(2000).lazy(), experiment(least_users=900))
    first, last = found["days"][0], found["days"][-1]
    assert min(first["users"].values()) < 900 <= min(last["users"].values())
    assert {point["lift"] for point in first["results"]} == {None}
    assert last["results"][0]["low"] < last["results"][0]["lift"]


def test_a_mismatch_voids_all_verdicts():
    found = standing(crowd(4000, keep=(1.0, 0.8)).lazy(), experiment())
    assert found["sample_ratio_mismatch"]["p_value"] < 0.001
    assert "MISMATCH" in found["sample_ratio_mismatch"]["warning"]
    points = [point for day in found["days"] for point in day["results"]]
    assert len(points) == 10 * len(found["results"])
    for one in found["results"] + points:
        assert [one[key] for key in ("lift", "low", "high")] == [None] * 3


def test_a_stray_event_is_a_warning_and_no_end():
    frame = crowd(2000)
    stray = events([("stray", "mallory", "click", 1, {"arm": "typo"})]).collect()
    found, clean = (
        standing(one.lazy(), experiment()) for one in (pl.concat([frame, stray]), frame)
    )
    assert "('typo' 1) and left out" in found["sample_ratio_mismatch"]["warning"]
    assert found["results"] == clean["results"]
    half = frame.with_columns(arm=pl.col("arm").replace("pia", "other"))
    broken = standing(half.lazy(), experiment())
    assert "'other'" in broken["sample_ratio_mismatch"]["warning"]
    assert [arm["users"] for arm in broken["arms"]] == [None, None]


def test_days_of_an_experiment_that_is_decided_at_its_end_come_with_it():
    pia, log = experiment(decision="end"), crowd(2000).lazy()
    before, after = (standing(log, pia, now=pia.end - late * DAY) for late in (0.1, 0.0))
    assert {point["lift"] for day in before["days"] for point in day["results"]} == {None}
    assert before["days"][-1]["users"] == after["days"][-1]["users"]
    assert after["days"][-1]["results"][0]["lift"] == after["results"][0]["lift"] is not None
