"""All of a comparison's runs in order, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie import errors
from coterie.comparison.contestants import Contestant
from coterie.comparison.folder import ComparisonFolder, Run
from coterie.comparison.job import INTERRUPTED, Job
from coterie.data.parts import Split
from coterie.errors import ConfigError, CoterieError, DataError
from coterie.repeats import Splits
from coterie.training.checkpoint import fingerprint
from coterie.training.config import Experiment, RunContext
from coterie.training.interrupt import SIGNALS
from coterie.training.loop import Observer, StepReport, check_data

GRACE_S = 60  # after SIGINT, for the step, the checkpoint or the record at hand
Watch = Callable[[Contestant, int], AbstractContextManager[Observer | None]]
"""Gives an observer of the training of one contestant with one seed."""


@dataclass(frozen=True)
class Field:
    """Who is compared on what.

    Parameters
    ----------
    contestants
        In the order of the table.
    seeds
        Each gives every contestant one run.
    splits
        The data of a seed.
    path
        The split's folder, if it is the same for all seeds; None: each seed has its own.
    cuts
        Of the metrics.
    """

    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]
    splits: Splits
    path: Path | None
    cuts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("A comparison needs at least one seed (--seeds 0 1 2).")
        names = [one.name for one in self.contestants]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"Two models are called {twice[0]!r}; name the file or the folder differently."
            )

    @property
    def runs(self) -> list[tuple[int, Contestant]]:
        """All runs: a whole seed, then the next."""
        return [(seed, one) for seed in self.seeds for one in self.contestants]

    def identity(self, context: RunContext) -> dict[str, Any]:
        """What all runs in a folder have in common: data and precision.

        The data is recognised by its split with seed 0, whichever seeds are asked for.
        """
        split = self.splits(0)
        shared, tested = (
            fingerprint(Experiment(), split.train, part, context)
            for part in (split.validation, split.test)
        )
        return {
            "data": {
                "name": split.train.name,
                "protocol": split.protocol,
                "split_per_seed": self.path is None,
                "settings": split.settings,
                "checksum": [shared["data"], tested["data"]],
            },
            "precision": shared["precision"],
        }

    def check(self) -> None:
        """Find out before the first run what would fail in one; errors as in training."""
        split = checked(self.splits(self.seeds[0]))
        for one in self.contestants:
            one.refuse(split, split_per_seed=self.path is None)


@dataclass(frozen=True)
class Step:
    """Where a comparison stands after a run.

    Parameters
    ----------
    run
        What was finished.
    done, total
        Runs finished, and asked for.
    seconds_left
        What the rest will take, each run as long as its contestant's others, or as the average.
    """

    run: Run
    done: int
    total: int
    seconds_left: float


def checked(split: Split) -> Split:
    """The split, if it can be trained and tested on; else :class:`DataError`."""
    check_data(split.train, split.validation if split.validation.held_out.nnz else None)
    if split.test.held_out.nnz == 0:
        raise DataError("No test user has a held-out item; hold out more users (--test-users).")
    return split


def run_comparison(
    field: Field,
    folder: ComparisonFolder,
    *,
    context: RunContext,
    threads: int | None = None,
    checkpoints: bool = False,
    watch: Watch | None = None,
    progress: Callable[[Step], None] | None = None,
) -> bool:
    """Do the runs that are not done yet; True if all are, False if it was interrupted.

    Parameters
    ----------
    field
        Who is compared on what.
    folder
        Claimed for it. A run leaves a record there when it is finished, not before.
    context
        Device and precision.
    threads
        Of a run; None leaves that to the libraries.
    checkpoints
        Whether an interrupted training goes on where it stopped, and not from its beginning.
    watch
        Observes the training of each run.
    progress
        Told about each run that is finished here.

    Raises
    ------
    ConfigError
        A finished run has other settings.
    CoterieError
        A run failed; those before it are kept.
    """
    finished = {(seed, one.key): run for seed, one in field.runs if (run := folder.load(seed, one))}
    for seed, one in field.runs:
        if (seed, one.key) in finished:
            continue
        try:
            if not folder.finished(seed, one):  # another process may have been here
                split = field.path or folder.split(seed)
                if not split.exists():
                    folder.keep_split(seed, checked(field.splits(seed)))
                job = Job(
                    folder=folder.path,
                    split=split,
                    contestant=one,
                    seed=seed,
                    cuts=field.cuts,
                    context=context,
                    checkpoints=checkpoints,
                )
                with nullcontext() if watch is None else watch(one, seed) as observer:
                    if not run_job(job, threads=threads, observer=observer):
                        return False
        except KeyboardInterrupt:
            return False
        run = folder.load(seed, one)
        assert run is not None, "its process ended well"
        finished[seed, one.key] = run
        if progress is not None:
            left = _seconds_left(field, finished)
            progress(Step(run, len(finished), len(field.runs), left))
    return True


def run_job(job: Job, *, threads: int | None = None, observer: Observer | None = None) -> bool:
    """Do one run in a process of its own; False if it was interrupted.

    Ctrl-C reaches this process alone, which passes it on, waits for the run to stop, and raises
    KeyboardInterrupt, as after SIGTERM; a second one ends the run at once.

    Raises
    ------
    CoterieError
        What the run raised; or it was killed from outside, as for lack of memory.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)  # of torch, and of the linear algebra
    process = subprocess.Popen(
        [sys.executable, "-m", "coterie.comparison.job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0 if os.name == "posix" else None,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    error: dict[str, str] = {}
    try:
        with process.stdout as messages:
            with suppress(BrokenPipeError), process.stdin as stdin:  # it may have died at once
                stdin.write(job.model_dump_json())
            for line in messages:
                error = _heed(json.loads(line), observer) or error
            code = process.wait()
    except BaseException:
        _stop(process, gently=job.checkpoints)
        raise
    if code == 0:
        return True
    if code in (INTERRUPTED, *(-number for number in SIGNALS)):
        return False
    raise _as_raised(error, code, f"{job.contestant.name}, seed {job.seed}")


def _heed(message: dict[str, Any], observer: Observer | None) -> dict[str, str] | None:
    """Pass a message on; return it if it is an error."""
    if observer is not None and "step" in message:
        observer.step(StepReport(**message["step"]))
    if observer is not None and "epoch" in message:
        observer.epoch(message["epoch"])
    return message.get("error")


def _stop(process: subprocess.Popen[str], *, gently: bool) -> None:
    """End a run: with time for a checkpoint if it keeps them."""
    try:
        if gently:
            process.send_signal(signal.SIGINT)
            process.wait(GRACE_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        pass
    finally:
        process.kill()
        process.wait()


def _as_raised(error: dict[str, str], code: int, run: str) -> Exception:
    if not error:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return CoterieError(
            f"The run of {run} ended with {how} and left no record; if memory was short, free "
            "some, or leave that model out. Finished runs are kept."
        )
    kind = getattr(errors, error["type"], None)
    message = f"{run}: {error['message']}"
    if isinstance(kind, type) and issubclass(kind, CoterieError):
        return kind(message)
    return RuntimeError(f"{error['type']}: {message}")


def _seconds_left(field: Field, finished: dict[tuple[int, str], Run]) -> float:
    average = sum(run.seconds for run in finished.values()) / len(finished)
    left = 0.0
    for seed, one in field.runs:
        if (seed, one.key) not in finished:
            same = [run.seconds for (_, key), run in finished.items() if key == one.key]
            left += sum(same) / len(same) if same else average
    return left
