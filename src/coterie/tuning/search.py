"""The search: trial after trial until the budget is spent, each one trained and validated."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from coterie.comparison.contestants import Setup
from coterie.data.parts import Split
from coterie.errors import DivergenceError
from coterie.evaluation.protocol import evaluate
from coterie.training.config import RunContext
from coterie.training.loop import Observer, StepReport
from coterie.tuning.candidates import Candidate
from coterie.tuning.records import Outcome, TrialRecord, best_of
from coterie.tuning.trials import Running, Trials


@dataclass(frozen=True)
class Step:
    """Where the search stands after a trial.

    Parameters
    ----------
    model
        Its name.
    record
        The trial.
    best
        The best so far.
    done
        Finished trials of this model.
    total
        Its budget in trials; None if it is in minutes.
    seconds_left
        What the budget has left: of time, or of trials as long as those so far.
    """

    model: str
    record: TrialRecord
    best: TrialRecord | None
    done: int
    total: int | None
    seconds_left: float


Watch = Callable[[str, int], AbstractContextManager[Observer | None]]
"""Gives an observer of a model's trial."""


def search(
    candidate: Candidate,
    data: Split,
    trials: Trials,
    *,
    context: RunContext | None = None,
    watch: Watch | None = None,
    progress: Callable[[Step], None] | None = None,
) -> bool:
    """Try settings until the model's budget is spent; False if it was interrupted.

    Parameters
    ----------
    candidate
        The model.
    data
        To train on, and the validation users; the test part is not looked at.
    trials
        Where the trials are kept.
    context
        Device and precision.
    watch
        Observes the training of each trial.
    progress
        Told about each trial that is finished here.

    Raises
    ------
    CoterieError
        A trial failed otherwise than by diverging; it is not counted.
    """
    context = context or RunContext()
    while (running := trials.begin()) is not None:
        try:
            with nullcontext() if watch is None else watch(candidate.name, running.number) as shown:
                ended = _run(candidate, data, trials, running, context, shown)
        except KeyboardInterrupt:
            trials.abandon(running)
            return False
        except BaseException:
            trials.abandon(running)
            raise
        if ended is None:
            trials.abandon(running)
            return False
        record = trials.finish(running, ended.outcome, **ended.reached)
        if progress is not None:
            progress(_step(candidate.name, record, trials))
        if ended.stop:
            return False
    return True


@dataclass(frozen=True)
class _End:
    """How a trial ended, what it reached, and whether Ctrl-C came at its end."""

    outcome: Outcome
    reached: dict[str, Any]
    stop: bool = False


def _run(
    candidate: Candidate,
    data: Split,
    trials: Trials,
    running: Running,
    context: RunContext,
    shown: Observer | None,
) -> _End | None:
    """Train and validate; None if Ctrl-C came before the end."""
    judge = _Judge(trials, running, candidate.metric, shown)
    one = candidate.contestant(running.settings)
    try:
        trained = one.train(data, candidate.seed, Setup(context, observer=judge))
    except _Early as early:
        return _End(early.outcome, judge.reached())
    except DivergenceError:
        return _End("diverged", judge.reached())
    if trained.interrupted:
        return None
    if trained.epochs is None:
        cut = int(candidate.metric.partition("@")[2])
        value = evaluate(trained.recommender, data.validation, ks=(cut,))[candidate.metric]
        return _End("complete", {"value": value}, trained.stop_requested)
    return _End("complete", judge.reached(), trained.stop_requested)


class _Early(Exception):
    """Ends the training of a trial early; not an error."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class _Judge:
    """An observer that reports each validation, and ends a trial that is bad or out of time."""

    def __init__(
        self, trials: Trials, running: Running, metric: str, shown: Observer | None
    ) -> None:
        self._trials, self._running, self._shown = trials, running, shown
        self._name = f"validation_{metric}"
        self._epochs = 0
        self._best: tuple[float, int] | None = None

    def step(self, report: StepReport) -> None:
        if self._shown is not None:
            self._shown.step(report)

    def epoch(self, record: dict[str, Any]) -> None:
        if self._shown is not None:
            self._shown.epoch(record)
        self._epochs = record["epoch"]
        if self._name not in record:
            return
        value = record[self._name]
        if self._best is None or value > self._best[0]:
            self._best = value, self._epochs
        if self._trials.report(self._running, value, self._epochs):
            raise _Early("pruned")
        if self._trials.out_of_time():
            raise _Early("out of time")

    def reached(self) -> dict[str, Any]:
        value, best_epoch = self._best or (None, None)
        return {"value": value, "best_epoch": best_epoch, "epochs": self._epochs or None}


def _step(model: str, record: TrialRecord, trials: Trials) -> Step:
    records = trials.records()
    return Step(
        model, record, best_of(records), len(records), trials.most_trials, trials.seconds_left()
    )
