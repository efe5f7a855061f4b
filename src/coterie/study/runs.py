"""One run: train, look at the test users once, measure; and all of a study's runs in order."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch

from coterie import repeats
from coterie.data.parts import Split
from coterie.errors import DataError
from coterie.evaluation.protocol import evaluate
from coterie.evaluation.result import Evaluation
from coterie.repeats import Splits, repeat
from coterie.study.folder import RunRecord, StudyFolder
from coterie.study.measures import measure, sample
from coterie.study.settings import MAIN, METRIC, Plan, Setting
from coterie.training.checkpoint import fingerprint
from coterie.training.config import RunContext
from coterie.training.loop import Observer, TrainingResult, check_data, train

Watch = Callable[[Setting, int], AbstractContextManager[Observer | None]]
"""Gives an observer of the training of one setting with one seed."""


Step = repeats.Step[RunRecord]


def identity(
    plan: Plan, splits: Splits, context: RunContext, *, split_per_seed: bool
) -> dict[str, Any]:
    """What all records of a study have in common: settings, data, precision.

    The data is recognised by its split with seed 0, whichever seeds are asked for.
    """
    data = splits(0)
    experiment = plan.config.experiment(plan[MAIN[0]].objective, 0)
    shared = fingerprint(experiment, data.train, data.validation, context)
    return {
        "study": plan.config.model_dump(mode="json"),
        "data": {
            "name": data.train.name,
            "protocol": data.protocol,
            "split_per_seed": split_per_seed,
            "settings": data.settings,
            "checksum": shared["data"],
        },
        "precision": shared["precision"],
    }


def run_study(
    plan: Plan,
    seeds: Sequence[int],
    splits: Splits,
    folder: StudyFolder,
    *,
    context: RunContext | None = None,
    checkpoints: bool = False,
    watch: Watch | None = None,
    progress: Callable[[Step], None] | None = None,
) -> bool:
    """Do what is not done yet; True if every run is finished, False if it was interrupted.

    Parameters
    ----------
    plan
        The settings.
    seeds
        Each determines a split (if ``splits`` draws them), weights, order, masks and noise.
    splits
        The data of a seed.
    folder
        Claimed for this study. A run leaves a record there when it is finished, not before.
    context
        Device and precision.
    checkpoints
        Whether an interrupted run goes on where it stopped, and not from its beginning. Worth it
        where runs are long; each epoch then ends with writing a checkpoint.
    watch
        Observes the training of each run.
    progress
        Told about each run that is finished here.

    Raises
    ------
    DataError
        Nothing to train on or to test on.
    DivergenceError
        A run diverged; those before it are kept.
    """
    context, kept = context or RunContext(), lru_cache(maxsize=1)(splits)
    return repeat(
        plan.runs(seeds),
        load=folder.load,
        do=lambda seed, key: _run(
            plan, plan[key], seed, checked(kept(seed)), folder, context, checkpoints, watch
        ),
        progress=progress,
    )


def checked(split: Split) -> Split:
    """The split, if it can be trained, validated and tested on; else :class:`DataError`."""
    check_data(split.train, split.validation)
    if split.test.held_out.nnz == 0:
        raise DataError("No test user has a held-out item; hold out more users (--test-users).")
    return split


def _run(
    plan: Plan,
    setting: Setting,
    seed: int,
    split: Split,
    folder: StudyFolder,
    context: RunContext,
    checkpoints: bool,
    watch: Watch | None,
) -> RunRecord | None:
    """Train, test and measure; save the model of a main setting, then the record."""
    unfinished = folder.unfinished(seed, setting.key)
    clock = _Clock()
    with nullcontext() if watch is None else watch(setting, seed) as observer:
        result = train(
            split.train,
            split.validation,
            plan.config.experiment(setting.objective, seed),
            context=context,
            folder=unfinished if checkpoints else None,
            resume=checkpoints,
            observer=observer,
        )
    if result.interrupted:
        return None
    clock.lap("train")
    evaluation = evaluate(result.recommender, split.test)  # the only look at the test users
    clock.lap("test")
    users = sample(split.train, plan.config)
    measures = measure(result.recommender, users, plan.config)
    clock.lap("measure")
    record = RunRecord(
        seed, setting.key, _values(setting, result, evaluation, measures) | clock.laps()
    )
    if setting.key in MAIN:
        result.recommender.save(folder.model(seed, setting.key), overwrite=True)
    folder.save(record)
    shutil.rmtree(unfinished, ignore_errors=True)
    if result.stop_requested:  # after the last step: this run is kept, the next is not begun
        raise KeyboardInterrupt
    return record


def _values(
    setting: Setting, result: TrainingResult, evaluation: Evaluation, measures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "label": setting.label,
        "objective": setting.objective.model_dump(mode="json"),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "beta_at_best": result.history[(result.best_epoch or 0) - 1]["beta"],
        f"validation_{METRIC}": result.best_value,
        "test": evaluation.to_dict(),
        "per_user": {
            "metric": METRIC,
            "user": evaluation.user_ids.to_list(),
            "history_length": evaluation.history_lengths.tolist(),
            "value": evaluation.per_user[METRIC].round(6).tolist(),
        },
        "measures": measures,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


class _Clock:
    """Seconds of each part of a run."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name], self._last = round(now - self._last, 2), now

    def laps(self) -> dict[str, dict[str, float]]:
        return {"seconds": self._laps}
