import sys
from pathlib import Path
from typing import Any

import pytest
from small_run import ALWAYS, context, experiment, run

from coterie.errors import MissingExtraError
from coterie.training.logging import Observers, TensorBoardObserver
from coterie.training.loop import StepReport

Figures = dict[str, list[tuple[int, float]]]


class Listener:
    def __init__(self, log: list[Any], name: str) -> None:
        self.log, self.name = log, name

    def step(self, report: StepReport) -> None:
        self.log.append((self.name, report.epoch, report.step_in_epoch))

    def epoch(self, record: dict[str, Any]) -> None:
        self.log.append((self.name, record["epoch"]))


class Crash(Exception):
    pass


class CrashAt:
    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def step(self, report: StepReport) -> None:
        if (report.epoch, report.step_in_epoch) == self.at:
            raise Crash

    def epoch(self, record: dict[str, Any]) -> None:
        pass


def read(folder: Path) -> Figures:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_several_observers_are_told_in_order() -> None:
    log: list[Any] = []
    both = Observers(Listener(log, "a"), Listener(log, "b"))
    run(experiment(epochs=1), observer=both)
    assert log == [("a", 1, 10), ("b", 1, 10), ("a", 1, 17), ("b", 1, 17), ("a", 1), ("b", 1)]
    Observers().epoch({})


def test_the_event_file_holds_what_training_said(tmp_path: Path) -> None:
    with TensorBoardObserver(tmp_path / "tb") as observer:
        result = run(observer=observer)
    figures = read(tmp_path / "tb")
    names = ("nll", "kl", "alignment", "beta", "lambda_a", "learning_rate", "validation_ndcg@20")
    assert {*figures} == {
        *(f"epoch/{name}" for name in names),
        *(f"train/{name}" for name in names[:3]),
    }
    for name in names:
        steps, values = zip(*figures[f"epoch/{name}"], strict=True)
        assert steps == (17, 34, 51)
        assert values == pytest.approx([record[name] for record in result.history], rel=1e-6)
    assert [step for step, _ in figures["train/nll"]] == [10, 17, 27, 34, 44, 51]
    assert figures["train/nll"][1] == figures["epoch/nll"][0]


@pytest.mark.parametrize("at", [(1, 10), (2, 10), (3, 17)])
def test_a_resumed_run_shows_every_step_once(tmp_path: Path, at: tuple[int, int]) -> None:
    within, tb = context(checkpoint_minutes=ALWAYS), tmp_path / "tb"
    with pytest.raises(Crash), TensorBoardObserver(tb) as first:
        # What is written beyond the checkpoint is written again by the resumed run.
        run(within=within, folder=tmp_path / "run", observer=Observers(first, CrashAt(*at)))
    with TensorBoardObserver(tb) as second:
        run(within=within, folder=tmp_path / "run", resume=True, observer=second)
    with TensorBoardObserver(tmp_path / "whole") as observer:
        run(observer=observer)
    assert read(tb) == read(tmp_path / "whole")


def test_nothing_is_written_before_the_first_report(tmp_path: Path) -> None:
    with TensorBoardObserver(tmp_path / "tb"):
        pass
    assert not (tmp_path / "tb").exists()


def test_without_tensorboard_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install coterie\[tensorboard\]"):
        TensorBoardObserver(tmp_path)
