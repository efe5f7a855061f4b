"""One run in a process of its own, so that its peak memory is its own, and nothing of it stays.

``python -m coterie.comparison.job PARENT`` reads a :class:`Job` as JSON from standard input, does
it, and leaves a record in the comparison's folder. PARENT is the id of the process that waits for
it: once that has died, training stops. It tells how it gets on by lines of JSON on standard output:
``{"step": …}``, ``{"epoch": …}``, and ``{"error": …}`` at the end of one that failed.
"""

import signal

if __name__ == "__main__":  # before what takes its time to import: until it trains, SIGINT ends it
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch

from coterie.comparison.contestants import AnyContestant, Setup
from coterie.comparison.folder import ComparisonFolder
from coterie.config import Config
from coterie.data.parts import Split
from coterie.errors import CoterieError
from coterie.evaluation.protocol import evaluate
from coterie.training.config import RunContext
from coterie.training.loop import StepReport

INTERRUPTED = 130  # exit code
STATUS = Path("/proc/self/status")


class Job(Config):
    """What a run's process is told.

    Parameters
    ----------
    folder
        The comparison's.
    split
        The split to train, validate and test on.
    contestant, seed
        Which run it is.
    cuts
        Of the metrics.
    context
        Device and precision.
    checkpoints
        Whether training keeps checkpoints, and goes on from those it finds.
    """

    folder: Path
    split: Path
    contestant: AnyContestant
    seed: int
    cuts: tuple[int, ...]
    context: RunContext
    checkpoints: bool


class Messages:
    """An observer that writes what it is told, a line of JSON each.

    Parameters
    ----------
    stream
        Where to.
    parent
        The process that listens. If it dies, this one gets SIGINT, once.
    """

    def __init__(self, stream: TextIO, parent: int | None = None) -> None:
        self._stream, self._parent, self._heard = stream, parent, True

    def step(self, report: StepReport) -> None:
        """Write ``{"step": …}``."""
        self.say("step", asdict(report))

    def epoch(self, record: dict[str, Any]) -> None:
        """Write ``{"epoch": …}``."""
        self.say("epoch", record)

    def say(self, what: str, values: dict[str, Any]) -> None:
        """Write one line, at once; if nobody listens any more, go on in silence."""
        try:
            print(json.dumps({what: values}), file=self._stream, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._heard = False
        # a parent's pipes close before it is gone; a living one that has closed them asks itself
        if not self._heard and self._parent not in (None, os.getppid()):
            self._parent = None
            signal.raise_signal(signal.SIGINT)


def do(job: Job, messages: Messages) -> bool:
    """Train, test on the test users once, leave a record; False if it was interrupted."""
    folder = ComparisonFolder(job.folder)
    unfinished = folder.unfinished(job.seed, job.contestant.key)
    lap = _clock()
    split = Split.open(job.split, verify=True)
    read = lap()
    setup = Setup(job.context, unfinished if job.checkpoints else None, messages)
    trained = job.contestant.train(split, job.seed, setup)
    if trained.interrupted:
        return False
    train = lap()
    recommender, counts = trained.recommender, split.train.item_counts()
    evaluation = evaluate(recommender, split.test, ks=job.cuts, item_counts=counts)
    seconds = {"read": read, "train": train, "test": lap()}
    facts = {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "parameters": recommender.model.n_parameters,
        "peak_memory": peak_memory(),
        "peak_device_memory": _peak_device_memory(job.context),
        "device": str(recommender.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    folder.save(job.seed, job.contestant, evaluation, facts)
    shutil.rmtree(unfinished, ignore_errors=True)
    return not trained.stop_requested


def peak_memory() -> int | None:
    """Most bytes that this process ever held in memory, its libraries included; None if unknown.

    Where there is one, Linux's high-water mark of the process's own memory is read: ``getrusage``
    would count the memory of the process that started this one.
    """
    try:
        rows = (line.split() for line in STATUS.read_text().splitlines())
        return next(int(row[1]) * 1024 for row in rows if row[0] == "VmHWM:")
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _peak_device_memory(context: RunContext) -> int | None:
    if context.torch_device().type != "cuda":
        return None
    return torch.cuda.max_memory_allocated()


def _clock() -> Callable[[], float]:
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


def main() -> int:
    """Do the job on standard input; the exit code is 0, 1 (failed) or 130 (interrupted)."""
    messages = Messages(sys.stdout, int(sys.argv[1]))
    sys.stdout = sys.stderr  # whoever prints must not print between the messages
    try:
        done = do(Job.model_validate_json(sys.stdin.read()), messages)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("COTERIE_TRACEBACK") or not isinstance(error, CoterieError):
            traceback.print_exc()
        messages.say("error", {"type": type(error).__name__, "message": str(error)})
        return 1
    return 0 if done else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
