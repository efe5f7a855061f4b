"""One model's trials in an Optuna study that any number of processes share.

What a trial tries is a function of (seed, its number, the trials finished before it): the sampler
is made anew for each. So one process that was stopped and goes on tries exactly what it would have
tried without the stop. With several processes it depends on who finishes first.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from coterie.errors import ConfigError
from coterie.repeats import differences
from coterie.spaces import SearchSpace
from coterie.tuning.config import TuneConfig
from coterie.tuning.records import Outcome, TrialRecord
from coterie.tuning.space import OUTSIDE, decoded, distribution, encoded
from coterie.tuning.storage import explained, open_storage

if TYPE_CHECKING:
    import optuna
    from filelock import BaseFileLock
    from optuna.trial import FrozenTrial

FILE, LOCK, RUNNING = "study.sqlite", "study.lock", "running"
IDENTITY, NUMBER, RECORD = "coterie-identity", "coterie-number", "coterie-record"


@dataclass(frozen=True, eq=False)
class Running:
    """A trial that this process has begun.

    Parameters
    ----------
    number
        As in :class:`TrialRecord`.
    settings
        What to try.
    began
        ``time.monotonic()`` at its beginning.
    """

    number: int
    settings: dict[str, Any]
    began: float
    _trial: "optuna.Trial"
    _alive: "BaseFileLock"

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began


class Trials:
    """The trials of one model.

    Parameters
    ----------
    folder
        Holds ``study.sqlite``, which may hold other models' trials too.
    name
        The model's.
    identity
        What all trials have in common (data, metric, settings, space): JSON. The budget is no part
        of it, so that a search can be extended.
    space
        What to search.
    preset
        Values of the first trial, where they lie in the space.
    config
        Budget, seed, pruning.

    Raises
    ------
    ConfigError
        The folder holds trials of this model with another identity; the message says what differs.
    ArtifactError, StorageError
        See :func:`coterie.tuning.storage.open_storage`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        identity: dict[str, Any],
        space: SearchSpace,
        preset: Mapping[str, Any],
        config: TuneConfig,
    ) -> None:
        from filelock import FileLock

        self.path = folder / FILE
        self.name = name
        self._space, self._preset, self._config = space, preset, config
        (folder / RUNNING).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK)
        with self._lock, explained(self.path):
            self._storage = open_storage(self.path)
            self._study = self._open_study()
            self._claim(identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def begin(self) -> Running | None:
        """The next trial; None if the budget is spent, or will be by trials that run elsewhere."""
        from filelock import FileLock

        with self._lock, explained(self.path):
            self._bury_the_dead()
            counted = self._counted()
            if self._spent(counted):
                return None
            number = _lowest_free(counted)
            self._study.sampler = self._sampler(number)
            if number == 1 and self._preset:
                self._study.enqueue_trial(self._first())
            trial = self._study.ask({key: distribution(of) for key, of in self._space.items()})
            trial.set_user_attr(NUMBER, number)
            alive = FileLock(self._alive_file(trial.number))
            alive.acquire(timeout=0)
            return Running(number, self._settings(trial.params), time.monotonic(), trial, alive)

    def report(self, running: Running, value: float, epoch: int) -> bool:
        """Note the validation figure of an epoch; whether the trial should be pruned."""
        with explained(self.path):
            running._trial.report(value, epoch)
            return self._config.pruning and running._trial.should_prune()

    def out_of_time(self) -> bool:
        """Whether the budget in minutes is spent."""
        if self._config.most_seconds is None:
            return False
        with explained(self.path):
            return self._spent(self._counted())

    def finish(
        self,
        running: Running,
        outcome: Outcome,
        *,
        value: float | None,
        best_epoch: int | None = None,
        epochs: int | None = None,
    ) -> TrialRecord:
        """Record how the trial ended."""
        from optuna.trial import TrialState

        facts: dict[str, Any] = {
            "outcome": outcome,
            "value": value,
            "best_epoch": best_epoch,
            "epochs": epochs,
            "seconds": round(running.seconds, 3),
        }
        whole = outcome == "complete"
        with self._lock, explained(self.path):
            running._trial.set_user_attr(RECORD, facts)
            # What was ended early, or diverged, is told as pruned: the sampler then knows that it
            # was bad, where a failed trial would count as never tried.
            state = TrialState.COMPLETE if whole else TrialState.PRUNED
            self._study.tell(running._trial, value if whole else None, state=state)
        self._release(running)
        return TrialRecord(number=running.number, settings=running.settings, **facts)

    def abandon(self, running: Running) -> None:
        """Forget a trial that was interrupted: the next one tries the same."""
        from optuna.trial import TrialState

        with self._lock, explained(self.path):
            self._study.tell(running._trial, state=TrialState.FAIL)
        self._release(running)

    def records(self) -> list[TrialRecord]:
        """Finished trials in the order in which they began."""
        with explained(self.path):
            found = [
                TrialRecord(
                    number=trial.user_attrs[NUMBER],
                    settings=self._settings(trial.params),
                    **trial.user_attrs[RECORD],
                )
                for trial in self._counted()
                if RECORD in trial.user_attrs
            ]
        return sorted(found, key=lambda record: record.number)

    def n_running(self) -> int:
        """Trials that run, in this process or in others."""
        with explained(self.path):
            return sum(RECORD not in trial.user_attrs for trial in self._counted())

    @property
    def most_trials(self) -> int | None:
        """The budget in trials; None if it is in minutes."""
        return self._config.most_trials

    def seconds_left(self) -> float:
        """What the budget has left: of time, or of trials as long as those so far."""
        with explained(self.path):
            seconds = [_seconds(trial) for trial in self._counted() if RECORD in trial.user_attrs]
        if self._config.most_seconds is not None:
            return max(0.0, self._config.most_seconds - sum(seconds))
        left = (self._config.most_trials or 0) - len(seconds)
        return max(0, left) * sum(seconds) / max(len(seconds), 1)

    def _open_study(self) -> "optuna.Study":
        import optuna

        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self._config.pruning:
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=self._config.pruning_after, n_warmup_steps=self._config.warm_up
            )
        return optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )

    def _claim(self, identity: dict[str, Any]) -> None:
        identity = json.loads(json.dumps(identity))
        found = self._study.user_attrs.get(IDENTITY)
        if found is None:
            self._study.set_user_attr(IDENTITY, identity)
        elif changed := differences(found, identity):
            raise ConfigError(
                f"{self.path} holds other trials of {self.name}: {changed}. Use the same settings "
                "and data, or another folder."
            )

    def _sampler(self, number: int) -> "optuna.samplers.TPESampler":
        from optuna.samplers import TPESampler

        seed = np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0]
        return TPESampler(seed=int(seed), n_startup_trials=self._config.startup_trials)

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: decoded(of, params[key]) for key, of in self._space.items()}

    def _first(self) -> dict[str, Any]:
        values = {key: encoded(self._space[key], value) for key, value in self._preset.items()}
        return {key: value for key, value in values.items() if value is not OUTSIDE}

    def _trials(self) -> list["FrozenTrial"]:
        return self._study.get_trials(deepcopy=False)

    def _counted(self) -> list["FrozenTrial"]:
        """Those that run or are finished; not those that were abandoned."""
        return [
            trial
            for trial in self._trials()
            if trial.state.name != "FAIL" and NUMBER in trial.user_attrs
        ]

    def _spent(self, counted: list["FrozenTrial"]) -> bool:
        if self._config.most_trials is not None:
            return len(counted) >= self._config.most_trials
        return sum(map(_seconds, counted)) >= (self._config.most_seconds or 0.0)

    def _bury_the_dead(self) -> None:
        """Abandon the trials of processes that were killed: nobody holds their lock any more."""
        from filelock import FileLock, Timeout
        from optuna.trial import TrialState

        for trial in self._trials():
            if trial.state.is_finished():
                continue
            file = self._alive_file(trial.number)
            try:
                with FileLock(file, timeout=0):
                    self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except Timeout:
                continue
            file.unlink(missing_ok=True)

    def _alive_file(self, number: int) -> Path:
        return self.path.parent / RUNNING / f"{self.name}-{number}.lock"

    def _release(self, running: Running) -> None:
        running._alive.release()
        self._alive_file(running._trial.number).unlink(missing_ok=True)


def _lowest_free(counted: list["FrozenTrial"]) -> int:
    """The lowest number that no trial has: that of an abandoned one, or the next."""
    taken = {trial.user_attrs[NUMBER] for trial in counted}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _seconds(trial: "FrozenTrial") -> float:
    """What a finished trial took, or a running one has taken so far."""
    if RECORD in trial.user_attrs:
        return float(trial.user_attrs[RECORD]["seconds"])
    if trial.datetime_start is None:
        return 0.0
    return max(0.0, (datetime.now() - trial.datetime_start).total_seconds())
