"""The rules of the verdicts, on records whose right verdict is known by construction."""

import math
import re

import numpy as np
import pytest
from scipy import stats
from study_records import measured, plan, record

from coterie.study.findings import decide, paired, verdict_of, verdict_of_equality
from coterie.study.settings import PIA

SEEDS = (0, 1, 2)
NOISE = (-0.001, 0.0, 0.001)


def records(jitter=NOISE, **changes):
    """Four settings whose figures differ by ``changes[setting][figure]``, plus noise by seed."""
    made = []
    for at, seed in enumerate(SEEDS[: len(jitter)]):
        for key in ("clean", "masking", "pia", "beta-5"):
            given = dict(changes.get(key, {}))
            ndcg = given.pop("ndcg", 0.4)
            shift = jitter[at] if key != "masking" else 0.0
            given = {name: value * (1 + shift) for name, value in given.items()}
            made.append(record(key, seed, ndcg=ndcg + shift, measures=measured(**given)))
    return made


def verdicts(made, **settings):
    return {finding.name: finding.verdict for finding in decide(made, plan(**settings))}


AS_THE_PAPER_SAYS = {
    "clean": {"ndcg": 0.35, "share": 0.2, "local": 0.3, "drift": 0.1},
    "masking": {"share": 0.5, "drift": 0.3, "variance": 1.0, "relative": 0.1},
    "pia": {"ndcg": 0.45, "share": 0.7, "drift": 0.2, "variance": 0.4, "relative": 0.05},
    "beta-5": {"active": 1, "information": 0.1},
}


def test_every_claim_can_be_confirmed():
    # L = 4 and λ_A = 1: τ = 2/3, so that τ² of the variance and τ of the distance are left.
    changes = AS_THE_PAPER_SAYS | {
        "pia": AS_THE_PAPER_SAYS["pia"] | {"variance": 4 / 9, "distance": 4 / 3}
    }
    found = verdicts(records(**changes))
    assert len(found) == 15
    assert {name for name, verdict in found.items() if verdict != "confirmed"} == set()


def test_every_comparison_can_be_not_confirmed():
    """The same figures with the settings the other way round."""
    swapped = {
        "clean": AS_THE_PAPER_SAYS["pia"],
        "masking": AS_THE_PAPER_SAYS["masking"] | {"active": 1, "information": 0.1},
        "pia": AS_THE_PAPER_SAYS["clean"] | {"drift": 0.5, "variance": 3.0, "relative": 0.4},
        "beta-5": {"active": 20, "information": 5.0},
    }
    swapped["clean"] = swapped["clean"] | {"drift": 0.6, "local": 0.05}
    found = verdicts(records(**swapped))
    assert {name for name, verdict in found.items() if verdict != "not confirmed"} == set()


@pytest.mark.parametrize("jitter", [(-0.3, 0.01, 0.35), (0.0, 0.0, 0.0), (0.01,)])
def test_noise_no_difference_or_one_seed_leave_all_unclear(jitter):
    same = {key: {"share": 0.5, "local": 0.1, "drift": 0.3} for key in ("clean", "masking", "pia")}
    found = decide(records(jitter, **same), plan())
    compared = [finding for finding in found if not finding.name.startswith("tau")]
    assert {finding.verdict for finding in compared} == {"unclear"}


def test_what_was_not_measured_is_unclear_and_says_so():
    made = [record(key, seed) for seed in SEEDS for key in ("clean", "masking", "pia", "beta-5")]
    by_name = {finding.name: finding for finding in decide(made, plan())}
    assert by_name["masking-drifts"].verdict == "unclear"
    assert "was not measured" in by_name["masking-drifts"].sentence
    assert by_name["tau"].verdict == "unclear"
    assert "not found for both" in by_name["tau"].sentence


def test_numbers_of_a_finding():
    (drifts,) = [
        finding
        for finding in decide(records(**AS_THE_PAPER_SAYS), plan())
        if finding.name == "masking-drifts"
    ]
    clean = 0.1 * (1 + np.array(NOISE))
    assert drifts.figures["difference"] == pytest.approx(0.3 - clean.mean())
    assert drifts.figures["p"] == pytest.approx(stats.ttest_rel([0.3] * 3, clean).pvalue)
    assert drifts.figures["seeds_with_the_sign"] == 3
    assert "higher in 3 of 3 seeds" in drifts.sentence
    assert "never met masks" in drifts.sentence


def test_a_user_of_several_seeds_counts_once():
    """Users a, b gain in seed 0 and lose as much in seed 1; c and d always gain a little."""
    base = dict.fromkeys("abcd", 0.4)
    gains = [
        {"a": 0.3, "b": 0.2, "c": 0.01, "d": 0.02},
        {"a": -0.3, "b": -0.2, "c": 0.03, "d": 0.02},
    ]
    made = []
    for seed, gain in enumerate(gains):
        better = {user: base[user] + gain[user] for user in base}
        made += [
            record("clean", seed),
            record("masking", seed, by_user=base),
            record("pia", seed, by_user=better),
            record("beta-5", seed),
        ]
    by_name = {finding.name: finding for finding in decide(made, plan())}
    whole = by_name["pia-helps"].figures
    assert whole["n_users"] == 4
    assert whole["p_users"] == pytest.approx(stats.ttest_1samp([0, 0, 0.02, 0.02], 0).pvalue)
    longer = by_name["pia-helps-over-10"].figures
    assert longer["n_users"] == 2
    assert longer["difference"] == pytest.approx(0.02)


def test_a_baseline_of_nothing_has_no_relative_gain():
    (found,) = [
        finding
        for finding in decide(records(masking={"ndcg": 0.0}, pia={"ndcg": 0.2}), plan())
        if finding.name == "pia-helps"
    ]
    assert found.verdict == "confirmed"
    assert math.isnan(found.figures["gain"])
    assert "That is" not in found.sentence
    assert "Over 4 distinct test users" in found.sentence


def test_sentences_have_true_minus_signs_and_no_nan():
    worse = records(pia={"ndcg": 0.3, "drift": 0.1}, masking={"drift": 0.2})
    by_name = {finding.name: finding for finding in decide(worse, plan())}
    assert "difference −0.1, " in by_name["pia-helps"].sentence
    assert "That is −25.0%. " in by_name["pia-helps"].sentence
    one_seed = decide(records((0.01,), **AS_THE_PAPER_SAYS), plan())
    bare = [record(key, seed) for seed in SEEDS for key in ("clean", "masking", "pia", "beta-5")]
    for finding in [*by_name.values(), *one_seed, *decide(bare, plan())]:
        assert not re.search(r"nan|[ (]-\d", finding.sentence), finding.sentence


def test_no_beta_above_the_base_no_claim_about_collapse():
    assert not [name for name in verdicts(records(), betas=[0.1, 0.2]) if name.startswith("beta")]


def test_paired_test_is_scipys():
    differences = np.random.default_rng(0).normal(0.5, 1, 7)
    found, expected = paired(differences), stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert paired(np.append(differences, np.nan)) == found


def test_differences_without_spread():
    assert paired(np.zeros(3)).p == 1
    assert paired(np.full(3, 0.25)).p == 0
    assert math.isnan(paired(np.array([1.0])).p)
    assert paired(np.empty(0)).n == 0


@pytest.mark.parametrize(
    ("differences", "sign", "expected"),
    [
        ([1.0, 1.1, 0.9], 1, "confirmed"),
        ([1.0, 1.1, 0.9], -1, "not confirmed"),
        ([1.0, -1.1, 0.9], 1, "unclear"),
        ([1.0], 1, "unclear"),
    ],
)
def test_verdict(differences, sign, expected):
    assert verdict_of(paired(np.array(differences)), sign) == expected


@pytest.mark.parametrize(
    ("log_ratios", "expected"),
    [
        ([0.01, 0.0, -0.01], "confirmed"),
        ([0.05, 0.051, 0.049], "confirmed"),  # differs for certain, but by less than 25 %
        ([1.0, 1.1, 0.9], "not confirmed"),
        ([1.0, -1.1, 0.9], "unclear"),
        ([0.0], "unclear"),
    ],
)
def test_verdict_of_equality(log_ratios, expected):
    assert verdict_of_equality(paired(np.array(log_ratios))) == expected


def test_prediction_uses_the_curvature_of_masking():
    by_name = {
        finding.name: finding
        for finding in decide(
            records(masking={"curvature": 6.0}, pia={"curvature": 100.0}), plan(lambda_a=3.0)
        )
    }
    assert plan(lambda_a=3.0)[PIA].lambda_a == 3
    assert by_name["tau"].figures["predicted"] == pytest.approx(0.5)
    assert by_name["tau-squared"].figures["predicted"] == pytest.approx(0.25)


def test_an_epoch_chosen_before_the_cap_of_beta_is_told():
    made = [
        record(key, seed, beta=2.0 if key == "beta-5" else None, measures=measured())
        for seed in SEEDS
        for key in ("clean", "masking", "pia", "beta-5")
    ]
    by_name = {finding.name: finding for finding in decide(made, plan())}
    assert "in which β was 2 ±0, not yet 5." in by_name["beta-collapses"].sentence
    assert "not yet" not in by_name["pia-helps"].sentence
