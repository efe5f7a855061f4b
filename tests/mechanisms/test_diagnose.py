"""All measures together: order, streams, shares of the budget, what is skipped and why."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms import diagnose as module
from coterie.mechanisms.diagnose import (
    KEEP_PROBABILITY,
    MAP_SHARE,
    MEASURES,
    Diagnosis,
    diagnose,
    generator_for,
)
from coterie.mechanisms.measurement import Budget
from coterie.recommender import Recommender
from training.small_run import experiment, run, small_split

SMALL = Budget(seconds=0.5)


@cache
def recommender(name: str = "multi-vae", pia: float = 1.0) -> Recommender:
    settings = experiment(model={"name": name}, pia=pia, epochs=1)
    return run(settings).recommender


@cache
def diagnosed() -> Diagnosis:
    return diagnose(recommender(), small_split().train, seed=3, budget=SMALL)


def test_every_measure_is_taken_in_order() -> None:
    found = diagnosed()
    assert found.skipped == {}
    assert list(found.measurements) == list(MEASURES) == found.order
    assert set(found.seconds) == set(MEASURES)
    assert all(found.figures()[name] for name in MEASURES)
    assert all(found.sentences()[name].strip().endswith(".") for name in MEASURES)
    train = small_split().train
    assert (found.data["users"], found.data["items"]) == (train.n_users, train.n_items)


def test_it_can_be_written_as_json() -> None:
    facts = json.loads(json.dumps(diagnosed().to_dict()))
    assert list(facts["measurements"]) == list(MEASURES)
    assert facts["keep_probability"] == KEEP_PROBABILITY
    assert facts["seed"] == 3
    drift = facts["measurements"]["drift"]
    assert drift["sample"]["available"] == small_split().train.n_users
    assert drift["seconds"] >= 0


def same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(list(first.values()), list(second.values()), equal_nan=True))


def test_the_same_seed_gives_the_same_figures_and_another_others() -> None:
    again = diagnose(recommender(), small_split().train, seed=3, budget=SMALL).figures()
    other = diagnose(recommender(), small_split().train, seed=4, budget=SMALL).figures()
    expected = diagnosed().figures()
    assert all(same(again[name], expected[name]) for name in MEASURES)
    assert not all(same(other[name], expected[name]) for name in MEASURES)


def test_no_measure_changes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURES", {"drift": MEASURES["drift"]})
    alone = diagnose(recommender(), small_split().train, seed=3, budget=SMALL)
    assert same(alone.figures()["drift"], diagnosed().figures()["drift"])


def test_streams_differ_by_name_and_by_every_bit_of_the_seed() -> None:
    drawn = {
        int(torch.randint(2**62, (1,), generator=generator_for(seed, name)))
        for seed in (0, 1, 2**32, 2**62)
        for name in ("drift", "transfer", "latent_map")
    }
    assert len(drawn) == 12


def test_the_shares_make_up_the_budget() -> None:
    assert sum(m.share for m in MEASURES.values()) + MAP_SHARE == pytest.approx(1)


class Recorder:
    """Stands for a measure; keeps what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.subjects = error, []  # type: ignore[var-annotated]

    def __call__(self, subject: Any) -> Any:
        self.subjects.append(subject)
        if self.error is not None:
            raise self.error
        return diagnosed().measurements["drift"]


def with_measures(monkeypatch: pytest.MonkeyPatch, **measures: Recorder) -> None:
    diagnosed()  # while the measures are the real ones
    made = {name: module._Measure(name, 0.25, measure) for name, measure in measures.items()}
    monkeypatch.setattr(module, "MEASURES", made)


def test_what_measures_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    with_measures(monkeypatch, one=recorder)
    told: list[str] = []
    diagnose(
        recommender(),
        small_split().train,
        budget=Budget(40, 1e8),
        keep_probability=0.3,
        progress=told.append,
    )
    (subject,) = recorder.subjects
    assert told == ["one"]
    assert (subject.budget.seconds, subject.budget.memory) == (10, 1e8)
    assert subject.masked["keep_probability"] == 0.3
    assert (subject.trained("alignment"), subject.trained("beta")) == (1.0, 0.2)
    assert subject.titles == recommender().catalogue["title"].to_list()
    assert subject.masked["generator"].initial_seed() == generator_for(0, "one").initial_seed()


def test_a_model_without_facts_of_its_training(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    with_measures(monkeypatch, one=recorder)
    known = recommender()
    bare = Recommender(known.model, known.item_ids, known.item_counts)
    diagnose(bare, small_split().train)
    assert recorder.subjects[0].titles == [str(i) for i in known.item_ids.ids.to_list()]
    with_measures(monkeypatch, drift=Recorder(), effect=module._alignment_effect)
    found = diagnose(bare, small_split().train, budget=SMALL)
    assert "does not say with what λ_A and β it was trained" in found.skipped["effect"]


@pytest.mark.parametrize(
    ("objective", "tau_is_one", "learnt"),
    [
        ({}, False, True),
        ({"align_mean": False}, True, False),
        ({"anchors": {"weighting": "inverse-popularity"}}, False, False),
        ({"anchors": {"n_centroids": 2}}, False, False),
        ({"anchors": {"kind": "decoder-tied"}}, False, True),
    ],
)
def test_the_effect_of_variants_of_alignment(
    monkeypatch: pytest.MonkeyPatch, objective: dict[str, Any], tau_is_one: bool, learnt: bool
) -> None:
    trained = run(experiment(objective=objective, epochs=1))
    with_measures(monkeypatch, effect=module._alignment_effect)
    figures = diagnose(trained.recommender, small_split().train, budget=SMALL).figures()["effect"]
    assert (figures["tau"] == 1) is tau_is_one
    assert ("distance_learnt" in figures) is learnt


def test_what_makes_no_sense_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with_measures(
        monkeypatch,
        a=Recorder(ConfigError("No posterior.")),
        b=Recorder(),
        c=Recorder(DataError("Too few users.")),
    )
    found = diagnose(recommender(), small_split().train)
    assert dict(found.skipped) == {"a": "No posterior.", "c": "Too few users."}
    assert list(found.measurements) == ["b"]
    assert found.order == ["a", "b", "c"]


def test_faults_are_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    with_measures(monkeypatch, a=Recorder(), b=Recorder(ZeroDivisionError("a fault")))
    with pytest.raises(ZeroDivisionError):
        diagnose(recommender(), small_split().train)


def test_if_nothing_can_be_measured_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = DataError("Too few users.")
    with_measures(monkeypatch, a=Recorder(error), b=Recorder(error))
    with pytest.raises(DataError, match=r"^Nothing could be measured\. Too few users\.$"):
        diagnose(recommender(), small_split().train)


def test_a_point_posterior_gets_what_makes_sense() -> None:
    found = diagnose(recommender("multi-dae", 0.0), small_split().train, budget=SMALL)
    assert {"drift", "mask_geometry", "wasserstein", "transfer"} <= set(found.measurements)
    assert set(found.measurements) | set(found.skipped) == set(MEASURES)
    for reason in found.skipped.values():
        assert len(reason) > 20
        assert reason.endswith(".")
    assert "information" in found.skipped


def test_data_with_other_items_is_read_over_the_models() -> None:
    train = small_split().train
    order = np.random.default_rng(0).permutation(train.n_items)
    shuffled = train.select_items(IdMap(train.item_ids.to_ids(order)))
    found = diagnose(recommender(), shuffled, seed=3, budget=SMALL)
    for name in ("drift", "mask_geometry", "collaboration"):
        assert same(found.figures()[name], diagnosed().figures()[name])


def test_few_users_shrink_the_sample_or_say_what_is_missing() -> None:
    few = small_split().train.rows(np.arange(12))
    found = diagnose(recommender(), few, budget=SMALL)
    assert found.data["users"] == 12
    assert all("at least" in reason for reason in found.skipped.values())


def test_mistakes() -> None:
    train = small_split().train
    with pytest.raises(ConfigError, match="keep_probability"):
        diagnose(recommender(), train, keep_probability=1.0)
    strangers = replace(train, item_ids=IdMap([f"none {i}" for i in range(train.n_items)]))
    with pytest.raises(DataError, match="No user has an item that the model knows"):
        diagnose(recommender(), strangers)
    empty = Interactions(np.zeros(1, np.int64), np.zeros(0, np.int32), IdMap([]), train.item_ids)
    with pytest.raises(DataError, match="No user"):
        diagnose(recommender(), empty)
