"""A run in a process of its own, seen from the process that waits for it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from coterie import errors
from coterie.comparison.job import INTERRUPTED, Job
from coterie.errors import CoterieError
from coterie.training.interrupt import SIGNALS
from coterie.training.loop import Observer, StepReport

GRACE_S = 60  # after SIGINT, for the step, the checkpoint or the record at hand


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
        [sys.executable, "-m", "coterie.comparison.job", str(os.getpid())],
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
