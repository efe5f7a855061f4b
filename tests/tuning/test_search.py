"""Searching: planted answers, pruning by the epoch, budgets, resuming, and what is never read."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuned_models import HERE, small, tiny_split

from coterie.data.parts import HeldOut, Split
from coterie.errors import ConfigError, DataError, StorageError
from coterie.evaluation.protocol import evaluate
from coterie.recommender import Recommender
from coterie.spaces import Choice, Range
from coterie.training.loop import Observer, StepReport, train
from coterie.tuning import trials as trials_module
from coterie.tuning.candidates import candidate
from coterie.tuning.config import TuneConfig
from coterie.tuning.records import TrialRecord
from coterie.tuning.results import Tuned
from coterie.tuning.run import tune
from coterie.tuning.search import Step

RATES = {"training.learning_rate": Choice((1e-7, 5e-3))}


@pytest.fixture(scope="module")
def split() -> Split:
    return tiny_split()


def found(result: list[Tuned] | None) -> list[TrialRecord]:
    assert result is not None
    (only,) = result
    return list(only.records)


def untimed(records: list[TrialRecord]) -> list[TrialRecord]:
    return [replace(record, seconds=0.0) for record in records]


class Watching:
    """Counts the epochs of each trial; may do something at one of them."""

    def __init__(self, at: tuple[int, int] | None = None, what: Any = None) -> None:
        self.epochs: dict[int, int] = {}
        self.at, self.what = at, what

    @contextmanager
    def __call__(self, model: str, number: int) -> Iterator[Observer]:
        watching = self

        class Counting:
            def step(self, report: StepReport) -> None: ...

            def epoch(self, record: dict[str, Any]) -> None:
                watching.epochs[number] = record["epoch"]
                if (number, record["epoch"]) == watching.at:
                    watching.what()

        yield Counting()


def test_the_better_of_two_planted_values_is_found(split: Split, tmp_path: Path) -> None:
    """A learning rate of 1e-7 leaves the weights as they were drawn."""
    config = TuneConfig(trials=10, startup_trials=4, pruning=False)
    result = tune([small(RATES)], split, tmp_path / "t", config=config, context=HERE)
    assert result is not None
    best = result[0].best
    assert best.settings["training.learning_rate"] == 5e-3
    tried = [record.settings["training.learning_rate"] for record in found(result)]
    assert set(tried) == {1e-7, 5e-3}
    assert tried[5:].count(5e-3) > tried[5:].count(1e-7)  # TPE has learned it


def test_a_planted_optimum_of_a_number_is_approached(split: Split, tmp_path: Path) -> None:
    """EASE's validation figure over a grid, computed anew, tells where the optimum is."""
    config = TuneConfig(trials=14, startup_trials=5)
    result = tune([candidate("ease")], split, tmp_path / "t", config=config)
    assert result is not None
    best = result[0].best
    from coterie.models.baselines import METHODS

    def value(l2: float) -> float:
        model = Recommender.fit(METHODS["ease"].config.read({"l2": l2}), split.train)
        return evaluate(model, split.validation, ks=(100,))["ndcg@100"]

    assert best.value == pytest.approx(value(best.settings["ease.l2"]), abs=1e-12)
    assert best.value is not None
    assert best.value >= max(map(value, np.geomspace(10, 5000, 8))) - 0.005
    assert best.epochs is None


def test_the_first_trial_is_the_preset(split: Split, tmp_path: Path) -> None:
    config = TuneConfig(trials=1)
    first = found(tune([small()], split, tmp_path / "t", config=config, context=HERE))[0]
    assert first.number == 1
    assert first.settings["objective.keep_probability"] == 0.5
    assert first.settings["training.learning_rate"] == 1e-3
    trained = train(
        split.train, split.validation, small().contestant({}).experiment, context=HERE
    )  # fmt: skip
    assert first.value == trained.best_value
    assert first.best_epoch == trained.best_epoch


def test_pruning_ends_training(split: Split, tmp_path: Path) -> None:
    """After two whole trials that learn, one that does not is ended after the warm-up."""
    config = TuneConfig(trials=8, startup_trials=8, pruning_after=2, warm_up=2, seed=4)
    one = small(RATES, training__epochs=8, training__patience=8)
    watching = Watching()
    records = found(tune([one], split, tmp_path / "t", config=config, context=HERE, watch=watching))
    pruned = [record for record in records if record.outcome == "pruned"]
    hopeless = [r for r in records[3:] if r.settings["training.learning_rate"] == 1e-7]
    assert hopeless
    assert all(record.outcome == "pruned" for record in hopeless)
    assert all(record.epochs == watching.epochs[record.number] for record in records)
    assert all(2 <= watching.epochs[record.number] < 8 for record in pruned)
    assert {record.epochs for record in records if record.outcome == "complete"} == {8}
    unpruned = replace_config(config, pruning=False)
    whole = found(tune([one], split, tmp_path / "u", config=unpruned, context=HERE))
    assert {record.outcome for record in whole} == {"complete"}


def replace_config(config: TuneConfig, **changes: Any) -> TuneConfig:
    return TuneConfig(**{**config.model_dump(), **changes})


def test_a_stopped_search_goes_on_as_if_nothing_had_happened(split: Split, tmp_path: Path) -> None:
    config = TuneConfig(trials=12, startup_trials=5, pruning_after=3, warm_up=1)
    whole = found(tune([small()], split, tmp_path / "whole", config=config, context=HERE))
    assert [record.number for record in whole] == list(range(1, 13))

    def interrupt() -> None:
        raise KeyboardInterrupt

    for budget, at in ((4, None), (12, (8, 1)), (12, (8, 1)), (12, None)):
        result = tune(
            [small()],
            split,
            tmp_path / "parts",
            config=replace_config(config, trials=budget),
            context=HERE,
            watch=Watching(at, interrupt),
        )
        assert (result is None) == (at is not None)
    assert untimed(found(result)) == untimed(whole)


def test_ctrl_c_while_a_trial_is_pruned_stops_the_search(split: Split, tmp_path: Path) -> None:
    """The signal is noted while the last epoch is validated, and pruning ends the training."""
    config = TuneConfig(trials=8, startup_trials=8, pruning_after=2, warm_up=2, seed=4)
    one = small(RATES, training__epochs=8, training__patience=8)
    whole = found(tune([one], split, tmp_path / "whole", config=config, context=HERE))
    pruned = next(record for record in whole if record.outcome == "pruned")
    assert pruned.epochs is not None
    watching = Watching((pruned.number, pruned.epochs), lambda: signal.raise_signal(signal.SIGINT))
    folder = tmp_path / "t"
    assert tune([one], split, folder, config=config, context=HERE, watch=watching) is None
    assert max(watching.epochs) == pruned.number
    again = found(tune([one], split, folder, config=config, context=HERE))
    assert untimed(again) == untimed(whole)


def test_ctrl_c_between_two_trials_stops_the_search(split: Split, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    config, folder = TuneConfig(trials=2), tmp_path / "t"
    assert tune([small()], split, folder, config=config, context=HERE, progress=stop) is None
    told: list[Step] = []
    assert tune([small()], split, folder, config=config, context=HERE, progress=told.append)
    assert [step.record.number for step in told] == [2]


def test_a_trial_that_failed_is_not_counted(split: Split, tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("no more")

    config = TuneConfig(trials=3)
    with pytest.raises(DataError, match="no more"):
        tune(
            [small()],
            split,
            tmp_path / "t",
            config=config,
            context=HERE,
            watch=Watching((2, 1), fail),
        )
    records = found(tune([small()], split, tmp_path / "t", config=config, context=HERE))
    assert [record.number for record in records] == [1, 2, 3]


def test_a_killed_process_leaves_its_trial_to_others(split: Split, tmp_path: Path) -> None:
    """Its lock is free, and so its trial is begun anew, with the same settings."""
    one, config = small(), TuneConfig(trials=2)
    with open_trials(one, tmp_path, config) as trials:
        first = trials.begin()
        second = trials.begin()
        assert first is not None
        assert second is not None
        assert trials.begin() is None  # the two that run are the whole budget
        first._alive.release()  # as the system does when a process ends
    with open_trials(one, tmp_path, config) as trials:
        again = trials.begin()
        assert again is not None
        assert (again.number, again.settings) == (1, first.settings)
        assert trials.begin() is None
        trials.finish(again, "complete", value=0.5)
        assert trials.n_running() == 1
        second._alive.release()


def open_trials(one: Any, folder: Path, config: TuneConfig) -> trials_module.Trials:
    return trials_module.Trials(
        folder / "t", one.name, identity={}, space=one.space, preset=one.preset, config=config
    )


def test_every_model_gets_the_same_trials(split: Split, tmp_path: Path) -> None:
    models = [small(), candidate("ease"), candidate("item-knn")]
    result = tune(models, split, tmp_path / "t", config=TuneConfig(trials=3), context=HERE)
    assert result is not None
    assert [len(one.records) for one in result] == [3, 3, 3]
    assert [one.candidate.name for one in result] == ["multi-vae", "ease", "item-knn"]


def test_minutes_end_a_trial_at_its_next_validation(split: Split, tmp_path: Path) -> None:
    one = small(training__epochs=2000, training__patience=2000)
    config = TuneConfig(minutes=1 / 60)
    records = found(tune([one], split, tmp_path / "t", config=config, context=HERE))
    assert records[-1].outcome == "out of time"
    assert records[-1].value is not None
    spent = sum(record.seconds for record in records)
    assert spent >= 1
    assert records[-1].epochs < 2000
    again = found(tune([one], split, tmp_path / "t", config=config, context=HERE))
    assert again == records
    more = replace_config(config, minutes=(spent + 1) / 60)
    assert len(found(tune([one], split, tmp_path / "t", config=more, context=HERE))) > len(records)


def test_threads_share_the_budget(split: Split, tmp_path: Path) -> None:
    """Outside the main thread there is no Ctrl-C to heed; otherwise as processes do."""
    config = TuneConfig(trials=8, startup_trials=3)
    counts: list[int] = []

    def work() -> None:
        done: list[int] = []
        tune(
            [candidate("ease")],
            split,
            tmp_path / "t",
            config=config,
            progress=lambda step: (done.append(step.record.number), time.sleep(0.02)),
        )
        counts.append(len(done))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 8
    records = found(tune([candidate("ease")], split, tmp_path / "t", config=config))
    assert [record.number for record in records] == list(range(1, 9))


def test_a_diverged_trial_counts_and_loses(split: Split, tmp_path: Path) -> None:
    one = small({"training.learning_rate": Choice((1e20, 1e-3))}, training__epochs=3)
    records = found(tune([one], split, tmp_path / "t", config=TuneConfig(trials=6), context=HERE))
    outcomes = {record.settings["training.learning_rate"]: record.outcome for record in records}
    assert outcomes[1e20] == "diverged"
    assert outcomes[1e-3] != "diverged"


def test_the_test_part_is_not_asked_for(split: Split, tmp_path: Path) -> None:
    nobody = split.train.rows(np.empty(0, dtype=np.int64))
    blind = replace(split, test=HeldOut(nobody, nobody))
    config = TuneConfig(trials=2)
    assert found(tune([candidate("ease")], blind, tmp_path / "t", config=config))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metric": "recall@20"}, "metric is 'ndcg@100' there and 'recall@20' here"),
        ({"fixed": {"item-knn.shrinkage": 5.0}}, "shrinkage is 10.0 there and 5.0 here"),
        ({"search": {"item-knn.neighbours": Choice((1, 2))}}, "neighbours"),
    ],
)
def test_another_search_in_the_same_folder(
    changes: dict[str, Any], expected: str, split: Split, tmp_path: Path
) -> None:
    config = TuneConfig(trials=1)
    tune([candidate("item-knn")], split, tmp_path / "t", config=config)
    with pytest.raises(ConfigError, match=r"holds other trials of item-knn") as caught:
        tune([candidate("item-knn", **changes)], split, tmp_path / "t", config=config)
    assert expected in str(caught.value)


def test_other_data_in_the_same_folder(split: Split, tmp_path: Path) -> None:
    config = TuneConfig(trials=1)
    tune([candidate("ease")], split, tmp_path / "t", config=config)
    fewer = replace(split, train=split.train.rows(np.arange(100)))
    with pytest.raises(ConfigError, match=r"data\.checksum"):
        tune([candidate("ease")], fewer, tmp_path / "t", config=config)


def test_refusals_before_any_trial(split: Split, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds files, but no trials"):
        tune([candidate("ease")], split, tmp_path / "full")
    with pytest.raises(ConfigError, match="Name each model once"):
        tune([candidate("ease"), candidate("ease")], split, tmp_path / "t")
    empty = replace(split.validation, held_out=split.validation.held_out.select(
        np.zeros(split.validation.held_out.nnz, dtype=bool)))  # fmt: skip
    with pytest.raises(DataError, match="No validation user"):
        tune([candidate("ease")], replace(split, validation=empty), tmp_path / "t")
    with pytest.raises(ConfigError, match="trials or minutes, not both"):
        TuneConfig.read({"trials": 3, "minutes": 1})


def test_ranges_of_whole_numbers_stay_whole(split: Split, tmp_path: Path) -> None:
    one = candidate("item-knn", search={"item-knn.neighbours": Range(2, 9)})
    records = found(tune([one], split, tmp_path / "t", config=TuneConfig(trials=4)))
    assert all(isinstance(r.settings["item-knn.neighbours"], int) for r in records)
