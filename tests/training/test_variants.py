"""Anchors, masks and ImplicitSLIM in the loop: they train, resume exactly, and refuse nonsense."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import context, experiment, small_split

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.training import loop
from coterie.training.config import Experiment
from coterie.training.loop import StepReport, TrainingResult, train

STEPS = 17  # per epoch

VARIANTS: dict[str, Experiment] = {
    "several centroids": experiment(
        objective={"anchors": {"n_centroids": 3, "weighting": "inverse-popularity"}}
    ),
    "low-rank": experiment(objective={"anchors": {"kind": "low-rank", "rank": 4}}),
    "decoder-tied": experiment(
        objective={"anchors": {"kind": "decoder-tied", "weighting": "rating"}}
    ),
    "encoder-tied": experiment(
        objective={"anchors": {"kind": "encoder-tied", "weighting": "recency"}}
    ),
    "popularity": experiment(objective={"mask": {"kind": "popularity"}}),
    "random-rate": experiment(objective={"mask": {"kind": "random-rate"}}),
    "time-block": experiment(objective={"mask": {"kind": "time-block"}}),
    "implicit slim": experiment(implicit_slim={"initial": True, "every": 1, "l2": 20.0}),
    "decayed": experiment(learning_rate_schedule={"kind": "linear", "end": 0, "epochs": 3}),
}


def with_extras(seed: int = 0) -> Interactions:
    data, rng = small_split().train, np.random.default_rng(seed)
    return replace(
        data,
        values=rng.integers(1, 6, data.nnz).astype(np.float32),
        timestamps=rng.integers(0, 10**8, data.nnz),
    )


def run(settings: Experiment, data: Interactions | None = None, **options: Any) -> TrainingResult:
    data = with_extras() if data is None else data
    return train(data, small_split().validation, settings, context=context(), **options)


class Interrupt:
    """SIGINT at one step of one epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def step(self, report: StepReport) -> None:
        if (report.epoch, report.step_in_epoch) == self.at:
            signal.raise_signal(signal.SIGINT)

    def epoch(self, record: dict[str, Any]) -> None:
        pass


def assert_same(one: TrainingResult, other: TrainingResult) -> None:
    first, second = (r.recommender.model.state_dict() for r in (one, other))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert one.recommender.anchors is not None
    assert other.recommender.anchors is not None
    assert torch.equal(one.recommender.anchors, other.recommender.anchors)
    assert one.history == other.history


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_something_else_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    settings = VARIANTS[name]
    whole = run(settings)
    plain = run(experiment())
    assert whole.history[-1]["nll"] < whole.history[0]["nll"]
    assert whole.history[-1]["nll"] != plain.history[-1]["nll"]
    stopped = run(settings, folder=tmp_path, observer=Interrupt(2, 10))
    assert stopped.interrupted
    assert_same(run(settings, folder=tmp_path, resume=True), whole)


@pytest.mark.parametrize(("epoch", "step"), [(1, 10), (1, STEPS), (2, STEPS)])
def test_tables_are_replaced_once_wherever_the_run_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, step: int
) -> None:
    replaced: list[str] = []

    def count(*args: Any) -> None:
        replaced.append(phase)
        replace_tables(*args)

    replace_tables = loop.replace_tables
    monkeypatch.setattr(loop, "replace_tables", count)
    settings = experiment(implicit_slim={"every": 1, "l2": 20.0, "min_users": 2})
    phase = "whole"
    whole = run(settings)
    phase = "stopped"
    assert run(settings, folder=tmp_path, observer=Interrupt(epoch, step)).interrupted
    phase = "resumed"
    assert_same(run(settings, folder=tmp_path, resume=True), whole)
    assert replaced.count("whole") == 2, "before the second and the third epoch"
    assert replaced.count("stopped") + replaced.count("resumed") == 2


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("decoder-tied", "ratings"), ("encoder-tied", "timestamps"), ("time-block", "timestamps")],
)
def test_data_that_lacks_something_is_known_before_training(name: str, lacks: str) -> None:
    bare = replace(small_split().train, values=None, timestamps=None)
    begun: list[str] = []
    with pytest.raises(DataError, match=f"has no {lacks}"):
        run(VARIANTS[name], bare, on_start=lambda: begun.append(name))
    assert begun == []


def test_other_times_are_other_data_where_they_count(tmp_path: Path) -> None:
    run(VARIANTS["time-block"], folder=tmp_path / "a")
    with pytest.raises(ConfigError, match="trained on other data"):
        run(VARIANTS["time-block"], with_extras(1), folder=tmp_path / "a", resume=True)
    run(experiment(), folder=tmp_path / "b")
    run(experiment(), with_extras(1), folder=tmp_path / "b", resume=True)


def test_a_rank_of_k_is_refused_when_the_settings_are_read() -> None:
    with pytest.raises(ConfigError, match="rank below latent_dim=8, got 8"):
        experiment(objective={"anchors": {"kind": "low-rank", "rank": 8}})


def test_parts_that_alternate_take_tied_anchors_too() -> None:
    settings = experiment(
        objective={"anchors": {"kind": "decoder-tied"}},
        encoder_epochs=2,
        decoder_epochs=1,
        implicit_slim={"initial": True, "l2": 20.0},
    )
    result = run(settings)
    assert result.recommender.anchors is not None
    assert result.recommender.anchors.shape == (small_split().train.n_items, 8)
