"""The click model, and the true lift by expectation against many simulated experiments."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import START, experiment

from coterie.errors import ConfigError
from coterie.experiment.effect import Interval
from coterie.experiment.events import SCHEMA
from coterie.experiment.log import summarize
from coterie.experiment.settings import DAY
from coterie.experiment.simulation.clicks import ClickModel, mean_seconds
from coterie.experiment.simulation.truth import Expected, Truth, truths
from coterie.experiment.simulation.visits import DELAY, LAST, draw_visits

MODEL = ClickModel(bias=1.0, noise=0.05)


@given(st.floats(0, 5), st.floats(0, 0.9), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_lower_places_and_disliked_items_get_fewer_clicks(bias, noise, relevance):
    model = ClickModel(bias, noise)
    same = model.chances(np.full(8, relevance))
    assert (np.diff(same) <= 0).all()
    assert ((same >= 0) & (same <= 1)).all()
    assert same[0] == pytest.approx(noise + (1 - noise) * relevance)
    rising = model.chances(np.array([relevance]))[0]
    assert model.chances(np.array([0.0]))[0] <= rising <= model.chances(np.array([1.0]))[0]


def test_no_bias_looks_everywhere():
    assert ClickModel(0.0, 0.0).chances(np.array([1.0, 0.5, 1.0])).tolist() == [1, 0.5, 1]
    assert ClickModel(1.0, 0.0).chances(np.array([1.0, 0.5, 1.0])).tolist() == [1, 0.25, 1 / 3]


def test_draws_follow_the_chances_and_the_seed_alone():
    relevance = np.array([1.0, 0.0, 0.5, 1.0])
    rng = np.random.default_rng(0)
    drawn = np.array([MODEL.draw(relevance, rng, 4) for _ in range(40_000)])
    clicked = ~np.isnan(drawn)
    chances = MODEL.chances(relevance)
    error = np.sqrt(chances * (1 - chances) / len(drawn))
    assert (abs(clicked.mean(axis=0) - chances) <= 4 * error).all()
    watched = np.nanmean(drawn, axis=0)
    spread = 4 / np.sqrt(clicked.sum(axis=0))  # an exponential's deviation is its mean
    assert watched == pytest.approx(mean_seconds(relevance), rel=float(spread.max()))
    one, same = (MODEL.draw(relevance, np.random.default_rng(7), 10) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    shorter = MODEL.draw(relevance[:2], np.random.default_rng(7), 10)
    np.testing.assert_array_equal(shorter, one[:2])


def plan(pia, n=60, mean=3.0):
    return draw_visits(pia, n, mean, np.random.default_rng(1))


def test_everybody_comes_and_within_the_experiment():
    pia = experiment(surfaces=["home", "movie"])
    visits = plan(pia, n=2000)
    assert len(visits) / 2000 == pytest.approx(3.0, abs=0.15)
    assert set(visits.person) == set(range(2000))
    assert visits.second.max() < 10 * 86_400 - LAST
    assert set(visits.surface) == {0, 1}
    for person in range(20):
        assert (np.diff(visits.second[visits.person == person]) >= 0).all()
    with pytest.raises(ConfigError, match="an hour or more"):
        plan(experiment(end=START + DAY / 48))


METRICS = [
    {"name": "secondsper_watch", "numerator": "watch_seconds", "denominator": "watches"},
    {"name": "soon", "numerator": "clicks", "window_days": 1.5},
    {"name": "soon_any", "numerator": "any_click", "window_days": 1.5, "surface": "home"},
    {"name": "seen_at_home", "numerator": "any_impression", "surface": "home"},
    {"name": "per_visit", "numerator": "clicks", "denominator": "impressions", "surface": "movie"},
]


def drawn_log(pia, arm, visits, relevance, rng):
    """The log if everybody is in one arm."""
    rows = []
    for visit in range(len(visits)):
        person, where = visits.person[visit], visits.surfaces[visits.surface[visit]]
        for place, watched in enumerate(MODEL.draw(relevance[person], rng, 6)):
            for kind in ("impression", "click", "watch")[: 1 if np.isnan(watched) else 3]:
                time = START + (int(visits.second[visit]) + DELAY[kind]) * DAY / 86_400
                seconds = float(watched) if kind == "watch" else None
                label = (f"{visit}-{place}-{kind}", str(person), kind, time, "i", where)
                rows.append((*label, seconds, pia.name, arm))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").lazy()


def test_expectation_is_what_many_experiments_average_to():
    """Independent of the formulas: events are drawn, and the analysis' own log adds them up."""
    pia = experiment(surfaces=["home", "movie"], metrics=METRICS)
    visits = plan(pia)
    rng = np.random.default_rng(3)
    taste = rng.random((60, 6)) ** 3
    lists = {"control": [one[:5] for one in taste], "pia": [np.sort(one)[::-1] for one in taste]}
    lists["pia"][0] = np.zeros(0)  # is shown nothing, never enters
    expected = {arm: Expected.of(MODEL, shown) for arm, shown in lists.items()}
    found = {truth.metric: truth for truth in truths(pia, expected, visits)}
    assert set(found) == set(pia.every_metric)
    for arm, side in (("control", "control"), ("pia", "treatment")):
        sums = []
        for _ in range(100):
            log = summarize(drawn_log(pia, arm, visits, lists[arm], rng), pia)
            assert len(log.users) == (60 if arm == "control" else 59)
            *_, (_, _, total) = log.by_day()
            sums.append(
                [log.values(m.terms, total).mean(axis=0) for m in pia.every_metric.values()]
            )
        for at, name in enumerate(pia.every_metric):
            terms = np.array([one[at] for one in sums])
            mean, error = terms.mean(axis=0), terms.std(axis=0) / np.sqrt(len(terms))
            ratio = mean[0] / (mean[1] if len(mean) > 1 else 1.0)
            spread = ratio * np.hypot(*(error / mean)) if len(mean) > 1 else error[0]
            assert getattr(found[name], side) == pytest.approx(ratio, abs=4.5 * spread + 1e-12)


def test_equal_lists_have_no_lift_and_better_ones_have_more():
    pia = experiment()
    visits = plan(pia)
    dull, fine = np.full(5, 0.2), np.full(5, 0.6)

    def lift(control, treated):
        arms = {"control": Expected.of(MODEL, [control] * 60)}
        arms["pia"] = Expected.of(MODEL, [treated] * 60)
        return {truth.metric: truth.lift for truth in truths(pia, arms, visits)}

    assert set(lift(dull, dull).values()) == {0.0}
    assert min(lift(dull, fine).values()) > 0
    by_impression = MODEL.chances(fine).sum() / MODEL.chances(dull).sum() - 1
    assert lift(dull, fine)["ctr_per_impression"] == pytest.approx(by_impression)


def test_covered():
    truth = Truth("m", "pia", 0.5, 0.6)
    assert truth.lift == pytest.approx(0.2)
    assert truth.covered(Interval(0.1, 0.3)) is True
    assert truth.covered(Interval(-0.1, 0.1)) is False
    assert truth.covered(Interval(-np.inf, np.inf)) is None
    assert Truth("m", "pia", 0.0, 0.6).covered(Interval(0.1, 0.3)) is None
