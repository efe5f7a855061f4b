import math
from dataclasses import replace

import pytest
from made_up import START, experiment

from coterie.experiment.analysis import Analysis, Comparison, Result
from coterie.experiment.effect import Effect, Estimate, Interval
from coterie.experiment.log import LogFacts
from coterie.experiment.mismatch import Mismatch
from coterie.experiment.record import record
from coterie.experiment.settings import DAY
from coterie.experiment.verdict import method, p_text, percent, sentence, span, warnings

CLEAR = Interval(0.01, 0.05)
FACTS = LogFacts(1000, 3, START, START + DAY, before_entry=4, outside_users=5, crossed_users=0)


def a_result(verdict, *, role="primary", interval=CLEAR, margin=None, n=500):
    effect = Effect(Estimate(n, 1.0, 0.01), Estimate(n, 1.03, 0.01))
    metric = experiment().every_metric["ctr_per_user"]
    once = Comparison(metric, "pia", effect, interval, interval, 0.03, 0.04, 0.25)
    return Result(once, role, interval, 0.03, 0.04, verdict, margin)


def an_analysis(*results, days=4, observed=(500, 500), p=0.9, facts=FACTS, **changes):
    mismatch = Mismatch(observed, (500.0, 500.0), p)
    return Analysis(experiment(**changes), mismatch, results, (), days, facts, finished=False)


def said(result, **changes):
    return sentence(result, an_analysis(result, **changes)).replace("\N{NO-BREAK SPACE}", " ")


def test_better():
    assert said(a_result("better")) == (
        "pia is better on ctr_per_user: +3.00 % against control (95 % interval +1.00 % to "
        "+5.00 %, p = 0.04)."
    )


def test_several_of_a_role_have_adjusted_p_values():
    one = a_result("worse", role="secondary")
    text = sentence(one, an_analysis(one, one))
    assert "pia is worse on ctr_per_user" in text
    assert "adjusted p = 0.04" in text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(-0.01, 0.015), "Any effect of 2.00 % or more is ruled out."),
        (Interval(-0.01, 0.03), "not proof of none: an effect of 2.00 %"),
        (Interval(0.001, 0.03), "not corrected, excludes zero"),
        (Interval(-math.inf, math.inf), "interval no bounds"),
    ],
)
def test_undecided_says_what_remains(interval, expected):
    text = said(a_result("undecided", interval=interval))
    assert text.startswith("No difference in ctr_per_user is shown for pia")
    assert expected in text


def test_too_early_says_why():
    few = said(a_result("too early", n=120))
    assert "200 users per arm are needed, an arm has 120" in few
    unfinished = said(a_result("too early"), decision="end")
    assert "decided once, at its end (2026-03-11 00:00 UTC)" in unfinished


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("held", "Guardrail held: a worsening of more than 1.00 % is ruled out."),
        ("violated", "it is worse by more than the accepted 1.00 %"),
        ("open", "neither shown nor ruled out"),
    ],
)
def test_guardrails(verdict, expected):
    assert expected in said(a_result(verdict, role="guardrail", margin=0.01))


def test_a_mismatch_comes_first_and_voids():
    one = a_result("not valid")
    found = an_analysis(one, observed=(600, 400), p=1e-9, facts=replace(FACTS, crossed_users=50))
    first, second = warnings(found)
    assert "SAMPLE RATIO MISMATCH (p < 0.0001): control 600 (expected 500)" in first
    assert "50 of 1,050 users were seen in two arms" in second
    assert "No verdict on ctr_per_user: the arms did not get their share" in said(one)


def test_users_in_unknown_arms_are_said_with_the_arms():
    arms = {"typo": 1200, **{f"old{at}": 1 for at in range(6)}}
    found = an_analysis(a_result("better"), facts=replace(FACTS, unknown_arms=arms))
    (text,) = warnings(found)
    assert text.startswith("1,206 of 2,206 users were seen in arms that the experiment does not")
    assert "('typo' 1,200, 'old0' 1, 'old1' 1, 'old2' 1, 'old3' 1, …) and left out" in text
    assert record(found)["warnings"] == [text]
    assert record(found)["log"]["unknown_arms"] == arms
    assert "1,206 in unknown arms" in method(found)[-1]


@pytest.mark.parametrize(("arm", "expected"), [("control", "'control'"), (None, "no arm")])
def test_an_arm_that_the_hash_does_not_give_is_said_without_naming_users(arm, expected):
    facts = {"contradicted_users": 12, "contradicted": {"user": "7", "arm": "pia", "by_hash": arm}}
    found = an_analysis(a_result("better"), facts=replace(FACTS, **facts))
    (text,) = warnings(found)
    assert text.startswith("12 of 1,000 users have another arm in the log than the hash")
    assert f"for example 'pia' in the log and {expected} by the hash" in text
    assert "'7'" not in text
    assert facts.items() <= record(found)["log"].items()


def test_all_is_well_without_warnings():
    assert list(warnings(an_analysis(a_result("better")))) == []


def test_the_method_is_honest_about_peeking_multiplicity_and_adjustment():
    anytime = " ".join(method(an_analysis(a_result("better"))))
    assert "always-valid" in anytime
    assert "Benjamini–Hochberg over all" in anytime
    assert "CUPED), which narrows" in anytime
    assert "3 came twice" in anytime
    plain = replace(a_result("better").comparison, variance_reduction=None)
    at_end = method(an_analysis(replace(a_result("better"), comparison=plain), decision="end"))
    assert "for that single look" in at_end[0]
    assert "the log has no such events" in at_end[2]
    assert "did in the 14 days before the start" in at_end[2]
    assert "from 2026-02-15 to 2026-03-01" in at_end[2]
    without = an_analysis(replace(a_result("better"), comparison=plain), pre_period_days=0)
    assert "not adjusted (CUPED), as pre_period_days = 0 says." in method(without)[2]


def test_numbers_for_people():
    assert [percent(x, unit="") for x in (0.01234, -0.2, 3.0, math.nan)] == [
        "+1.23", "−20.0", "+300", "–",
    ]  # fmt: skip
    assert span(Interval(-math.inf, 0.1)) == "no bounds"
    assert [p_text(p) for p in (0.0123, 1e-9, math.nan)] == ["0.012", "< 0.0001", "–"]


def test_the_record_has_all_of_it():
    found = record(an_analysis(a_result("better")))
    assert found["users"] == {"control": 500, "pia": 500}
    mismatch = {"observed": (500, 500), "expected": (500.0, 500.0), "p_value": 0.9, "alarm": False}
    assert found["sample_ratio_mismatch"] == mismatch
    first = found["results"][0]
    assert (first["low"], first["high"]) == (0.01, 0.05)
    assert (first["p_uncorrected"], first["p_value"]) == (0.03, 0.04)
    assert (first["control_mean"], first["mean"]) == (1.0, 1.03)
    assert found["results"][0]["sentence"].startswith("pia is better")
    assert found["log"]["last"] == "2026-03-02T00:00:00+00:00"
