"""What training shows while it runs: a live line on a terminal, and a line per epoch."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coterie.training.loop import StepReport

SMOOTHING = 0.3  # weight of the newest measurement of users/s
SHORT = {"nll": "nll", "kl": "kl", "alignment": "align"}


class Display:
    """An observer that shows epoch, loss terms, users/s, time left and the validation figure.

    Parameters
    ----------
    console
        Where to; bars appear only if it is a terminal.
    line_per_epoch
        Whether each epoch leaves a line.
    """

    def __init__(self, console: Console, *, line_per_epoch: bool = True) -> None:
        self._console = console
        self._line_per_epoch = line_per_epoch
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[terms]}"),
            TextColumn("{task.fields[speed]} users/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, epoch="–", terms="", speed="–")
        self._clock = time.monotonic()
        self._seen = (0, 0)  # epoch and users in it at the last report
        self._speed: float | None = None

    @contextmanager
    def running(self) -> Iterator["Display"]:
        """Show the live line within the block."""
        self._clock = time.monotonic()
        with self._bar:
            yield self

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        self._measure(report)
        self._bar.update(
            self._task,
            completed=(report.epoch - 1) * report.steps_per_epoch + report.step_in_epoch,
            total=report.epochs * report.steps_per_epoch,
            epoch=f"{report.epoch}/{report.epochs}",
            terms=_terms(report.terms),
            speed="–" if self._speed is None else f"{self._speed:,.0f}",
        )

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch's figures."""
        self._clock = time.monotonic()  # validation is not training
        if not self._line_per_epoch:
            return
        figures = [f"{name[11:]} {record[name]:.4f}" for name in record if _is_validation(name)]
        speed = [] if self._speed is None else [f"{self._speed:,.0f} users/s"]
        terms = _terms({name: record[name] for name in SHORT if name in record})
        line = "  ".join([f"epoch {record['epoch']:>3}", terms, *figures, *speed])
        self._console.print(line, soft_wrap=True)

    def _measure(self, report: StepReport) -> None:
        now = time.monotonic()
        epoch, users = self._seen
        done = report.users - (users if report.epoch == epoch else 0)
        passed, self._clock = now - self._clock, now
        self._seen = (report.epoch, report.users)
        if passed > 0:
            rate = done / passed
            old = rate if self._speed is None else self._speed
            self._speed = SMOOTHING * rate + (1 - SMOOTHING) * old


def watched(*_: object) -> AbstractContextManager[Display]:
    """The live line of one of several trainings, whose epochs leave no lines."""
    return Display(Console(stderr=True, highlight=False), line_per_epoch=False).running()


def _terms(terms: dict[str, float]) -> str:
    return "  ".join(f"{SHORT[name]} {value:.4g}" for name, value in terms.items() if value)


def _is_validation(name: str) -> bool:
    return name.startswith("validation_")
