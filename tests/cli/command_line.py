"""What the tests of the commands share: a small network, and how a command ended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = ("--hidden-dims", "16", "--latent-dim", "8", "--batch-size", "50")
HERE = ("--device", "cpu", "--precision", "fp32")
PATIENCE_S = 300  # for a busy machine


@dataclass(frozen=True)
class Workspace:
    """Paths of real results: log and titles as CSV, data set, split, run."""

    log: Path
    titles: Path
    data: Path
    split: Path
    run: Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on standard output."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    def message(self) -> str:
        """The error message, which must be all that standard error holds."""
        assert "Traceback" not in self.err
        assert self.out == ""
        assert self.err.startswith("coterie: ")
        return self.err.removeprefix("coterie: ").rstrip("\n")


def start(*words: object, deaf: bool = False) -> subprocess.Popen[str]:
    """A command in its own process; ``deaf``: it begins ignoring SIGINT, as by a script's ``&``."""
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if deaf else []
    return subprocess.Popen(
        [*shell, sys.executable, "-m", "coterie", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def stopped(process: subprocess.Popen[str], number: int, when: Callable[[], bool]) -> str:
    """Signal a process ``when`` it has got so far; what it said, if it stopped as it should."""
    until = time.monotonic() + PATIENCE_S
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    return err
