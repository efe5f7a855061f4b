"""Figures and tests of a comparison against computation by hand, user by user."""

import json
import math

import numpy as np
import pytest
from comparison_runs import IDENTITY, LONG, METRICS, SHORT, comparison, run, values
from scipy import stats

from coterie.comparison.outcome import Comparison, Question
from coterie.comparison.report import finite
from coterie.errors import ConfigError, DataError
from coterie.evaluation.significance import paired_bootstrap

GAINS = {"base": 0.0, "good": 0.4, "same": 0.0}


def by_hand(found, name, seeds=3, cohort=None):
    """User → mean difference over the seeds that test it; and the seeds' differences."""
    by_user, by_seed = {}, []
    for seed in range(seeds):
        ours, theirs = (
            dict(found.runs[one][seed].users.select("user_id", METRICS[0]).iter_rows())
            for one in (name, found.baseline)
        )
        lengths = dict(found.runs[name][seed].users.select("user_id", "history_length").iter_rows())
        inside = [user for user in ours if cohort is None or cohort.low <= lengths[user] <= 50]
        if cohort is SHORT:
            inside = [user for user in inside if lengths[user] <= 10]
        for user in inside:
            by_user.setdefault(user, []).append(ours[user] - theirs[user])
        by_seed.append(
            np.mean([ours[user] for user in inside]) - np.mean([theirs[user] for user in inside])
        )
    return [np.mean(each) for each in by_user.values()], by_seed


@pytest.mark.parametrize("cohort", [None, SHORT, LONG], ids=str)
@pytest.mark.parametrize("name", ["good", "same"])
def test_figures_by_hand(name, cohort):
    found = comparison(GAINS)
    users, seeds = by_hand(found, name, cohort=cohort)
    figure = found.figure(name, METRICS[0], cohort and cohort.name)
    one = figure.difference
    assert figure.n_users == len(users)
    assert one.mean == pytest.approx(np.mean(seeds))
    assert one.users.n == len(users)
    assert one.users.mean == pytest.approx(np.mean(users))
    assert one.users.p == pytest.approx(stats.ttest_1samp(users, 0).pvalue)
    assert one.seeds.p == pytest.approx(stats.ttest_1samp(seeds, 0).pvalue)


def test_mean_and_deviation_are_over_seeds():
    found = comparison(GAINS)
    means = [
        np.mean([value for _, value in values(seed, above=0.4, noise=1).values()])
        for seed in range(3)
    ]
    figure = found.figure("good", METRICS[0])
    assert figure.by_seed == pytest.approx(means)
    assert figure.mean == pytest.approx(np.mean(means))
    assert figure.deviation == pytest.approx(np.std(means, ddof=1))
    assert found.figure("good", METRICS[1]).mean == pytest.approx(np.mean(means) / 2)


def test_holm_is_over_the_models_of_one_metric_and_population():
    found = comparison(GAINS)
    for cohort in (None, "5–10"):
        tests = [found.figure(name, METRICS[0], cohort).difference for name in ("good", "same")]
        low, high = sorted(tests, key=lambda one: one.users.p)
        assert low.p_users == pytest.approx(min(1, 2 * low.users.p))
        assert high.p_users == pytest.approx(min(1, max(high.users.p, 2 * low.users.p)))
        low, high = sorted(tests, key=lambda one: one.seeds.p)
        assert low.p_seeds == pytest.approx(min(1, 2 * low.seeds.p))


def test_bootstrap_over_users_and_t_over_seeds():
    found, plain = comparison(GAINS, test="bootstrap"), comparison(GAINS)
    users, _ = by_hand(found, "same")
    ours = found.figure("same", METRICS[0]).difference
    expected = paired_bootstrap(np.array(users), rng=0, n_resamples=500)
    assert ours.users.p == pytest.approx(expected.p, abs=0.06)  # the order of users is another
    assert ours.users.p != plain.figure("same", METRICS[0]).difference.users.p
    assert ours.seeds == plain.figure("same", METRICS[0]).difference.seeds
    assert found.to_dict() == comparison(GAINS, test="bootstrap").to_dict()


def test_two_seeds_are_too_few_to_test_over_seeds():
    found = comparison(GAINS, seeds=2).figure("good", METRICS[0])
    assert math.isnan(found.difference.p_seeds)
    assert found.difference.p_users < 0.05
    assert found.deviation > 0
    assert math.isnan(comparison(GAINS, seeds=1).figure("good", METRICS[0]).deviation)


def test_empty_cohorts_are_left_out_and_the_best_is_found():
    found = comparison(GAINS)
    assert found.cohorts == (SHORT, LONG)
    assert [found.is_best(name, METRICS[0]) for name in GAINS] == [False, True, False]
    again = comparison({"a": 0.0})
    twins = Comparison(
        ["a", "b"], {"a": again.runs["a"], "b": again.runs["a"]}, again.question, IDENTITY
    )
    assert twins.is_best("a", METRICS[0])
    assert twins.is_best("b", METRICS[0])
    difference = twins.figure("b", METRICS[0]).difference
    assert (difference.mean, difference.p_users, difference.p_seeds) == (0, 1, 1)


def test_a_cohort_that_one_seed_lacks():
    runs = {
        name: [
            run(name, 0, {1: (7, 0.5 + at), 2: (7, 0.1)}),
            run(name, 1, {3: (20, 0.3 + at), 4: (20, 0.2)}),
        ]
        for at, name in enumerate("ab")
    }
    question = Question(
        baseline="a", metrics=METRICS[:1], cohorts=(SHORT,), test="t", n_resamples=10
    )
    figure = Comparison("ab", runs, question, IDENTITY).figure("b", METRICS[0], "5–10")
    assert figure.by_seed == pytest.approx([0.8, math.nan], nan_ok=True)
    assert (figure.mean, figure.n_users) == (pytest.approx(0.8), 2)
    assert figure.difference.mean == pytest.approx(0.5)


def test_json_holds_everything():
    facts = json.loads(json.dumps(finite(comparison(GAINS, seeds=2).to_dict()), allow_nan=False))
    assert facts["seeds"] == [0, 1]
    assert [model["name"] for model in facts["models"]] == list(GAINS)
    base, good, _ = facts["models"]
    assert "difference" not in base["metrics"][METRICS[0]]
    test = good["metrics"][METRICS[0]]["difference"]
    assert test["over_seeds"]["p"] is None
    assert 0 <= test["over_users"]["p"] <= test["over_users"]["p_holm"] <= 1
    assert test["over_users"]["low"] < test["over_users"]["mean"] < test["over_users"]["high"]
    assert set(good["cohorts"]) == {"5–10", "11–50"}
    assert good["runs"][1]["seconds"]["train"] == 3.0
    assert good["runs"][1]["best_epoch"] == 11


def test_mistakes():
    with pytest.raises(ConfigError, match=r"'bse' is none of the models: base, good, same"):
        comparison(GAINS, baseline="bse")
    with pytest.raises(ConfigError, match=r"did not measure map@7; it measured ndcg@100"):
        comparison(GAINS, metrics=("map@7",))
    found = comparison(GAINS)
    others = {**found.runs, "good": [run("good", seed, values(seed + 1)) for seed in range(3)]}
    with pytest.raises(DataError, match="different users"):
        Comparison(list(GAINS), others, found.question, IDENTITY)
