"""Plans, against statsmodels, simulation, and each other."""

import math

import numpy as np
import pytest
from made_up import crowd, events, experiment
from statsmodels.stats.power import NormalIndPower

from coterie.errors import ConfigError
from coterie.experiment.effect import Effect, Indices, estimates
from coterie.experiment.log import everyone
from coterie.experiment.moments import Moments
from coterie.experiment.power import (
    detectable_effect,
    plan,
    plan_from_log,
    required_users,
)

RULES = {"alpha": 0.05, "power": 0.8}


@pytest.mark.parametrize(("effect", "variance"), [(0.02, 0.5), (0.1, 4.0), (0.5, 1.0)])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3)])
def test_as_statsmodels_plans(effect, variance, shares):
    ours = required_users(variance, effect, shares=shares, **RULES)
    ratio = shares[1] / shares[0]
    # statsmodels knows one variance for both arms: give it the one that has our standard error
    pooled = variance * (1 + (1 + effect) ** 2 / ratio) / (1 + 1 / ratio)
    theirs = NormalIndPower().solve_power(
        effect / math.sqrt(pooled), power=0.8, alpha=0.05, ratio=ratio
    )
    assert ours == pytest.approx(theirs * (1 + ratio), rel=1e-3, abs=1.5)


def test_users_and_effect_are_inverse():
    users = required_users(3.0, 0.04, shares=(0.7, 0.3), **RULES)
    found = detectable_effect(3.0, users, shares=(0.7, 0.3), **RULES)
    assert found == pytest.approx(0.04, rel=1e-3)
    for users in (0, 20):  # with 20, twice the effect has more than twice the error
        assert detectable_effect(3.0, users, shares=(0.5, 0.5), **RULES) == math.inf


def test_a_planned_experiment_finds_the_effect_as_often_as_planned():
    rng = np.random.default_rng(0)
    one = experiment(minimum_effect=0.15, primary="watch_seconds_per_user")
    made = plan(one, baseline=math.exp(0.5), variance=(math.e - 1) * math.e)
    assert made.users["control"] == made.users["pia"]
    n, hits = made.users["control"], 0
    for _ in range(600):
        control, treatment = rng.lognormal(0, 1, (2, n, 1))
        found = Effect(*estimates([Moments.of(control), Moments.of(1.15 * treatment)], Indices(0)))
        hits += found.p_value() < 0.05
    assert hits / 600 == pytest.approx(0.8, abs=0.06)


def test_days_follow_from_traffic():
    half = {"name": "g", "slice": [0.0, 0.5]}
    one = experiment(group=half, exposed=0.5, minimum_effect=0.05)
    made = plan(one, baseline=0.1, variance=0.02, users_per_day=1000)
    assert made.days == math.ceil(made.total / 250)
    assert made.users_at_end == 2500
    assert required_users(2.0, made.effect_at_end, shares=(0.5, 0.5), **RULES) == 2500
    assert plan(one, baseline=0.1, variance=0.02).days is None
    assert plan(one, baseline=0.1, variance=0.02, users_per_day=0.1).days is None


def test_several_treatments_share_alpha_and_the_smallest_sets_the_size():
    two = experiment(arms={"control": 0.5, "a": 0.3, "b": 0.2})
    made = plan(two, baseline=0.1, variance=0.02)
    assert made.alpha == 0.025
    pair = required_users(2.0, 0.02, alpha=0.025, power=0.8, shares=(0.5, 0.2))
    assert made.users["control"] + made.users["b"] == pytest.approx(pair, abs=2)


def test_a_log_gives_what_its_users_give():
    """The last day's figures are those of all users' totals; days in between are those of then."""
    frame = crowd(800, seed=4)
    one = experiment(minimum_effect=0.2, pre_period_days=0)
    made = plan_from_log(one, everyone(frame.lazy(), one))
    day = made.days
    assert 1 < day <= 20
    start = frame["time"].min()
    by_user = {}
    for row in frame.iter_rows(named=True):
        if (row["time"] - start).days < day:
            clicks, seen = by_user.get(row["user"], (0, 0))
            click = row["kind"] == "click"
            by_user[row["user"]] = (clicks + click, seen + (not click))
    clicks, seen = np.array(list(by_user.values()), dtype=float).T
    ratio = clicks.sum() / seen.sum()
    relative = (clicks - ratio * seen).var(ddof=1) / seen.mean() ** 2 / ratio**2
    assert made.relative_variance == pytest.approx(relative)
    needed = required_users(relative, 0.2, shares=(0.5, 0.5), **RULES)
    assert made.total == pytest.approx(needed, abs=2)
    assert len(by_user) >= needed
    assert not made.beyond_log


def test_beyond_the_log_new_users_are_carried_on():
    rows = [
        (f"{user}-{kind}", f"u{user}", kind, 24 * (user // 20) + 1, {"experiment": None})
        for user in range(200)
        for kind in ("impression", "click")[: 1 + (user % 2)]
    ]
    one = experiment(minimum_effect=0.05)
    made = plan_from_log(one, everyone(events(rows), one))
    assert made.beyond_log
    assert made.days == pytest.approx(math.ceil(made.total / 20), abs=1)


def test_nonsense():
    for values in ({"baseline": 0.0, "variance": 1.0}, {"baseline": 1.0, "variance": 0.0}):
        with pytest.raises(ConfigError, match="above 0"):
            plan(experiment(), **values)
    with pytest.raises(ConfigError, match="Users per day"):
        plan(experiment(), baseline=1.0, variance=1.0, users_per_day=0)
    silent = events([("1", "a", "impression", 1, {"experiment": None})] * 2)
    with pytest.raises(ConfigError, match="says nothing about 'ctr_per_impression'"):
        plan_from_log(experiment(), everyone(silent, experiment()))
