"""What the tests of the commands share: a small network, and how a command ended."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = ("--hidden-dims", "16", "--latent-dim", "8", "--batch-size", "50")
HERE = ("--device", "cpu", "--precision", "fp32")


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
