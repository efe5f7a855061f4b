"""What is shown of training while it runs, on a terminal and a clock of our own."""

import io
from types import SimpleNamespace

from rich.console import Console

from coterie.cli import progress
from coterie.cli.progress import Display
from coterie.training.loop import StepReport

TERMS = {"nll": 412.34, "kl": 3.25, "alignment": 0.5}


class Watched:
    """A display, its clock, and what it wrote."""

    def __init__(self, monkeypatch, *, terminal=True, **options):
        self.now = 0.0
        self.written = io.StringIO()
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))
        console = Console(
            file=self.written,
            force_terminal=terminal,
            color_system=None,
            width=120,
            get_time=lambda: self.now,
        )
        self.display = Display(console, **options)

    def step(self, epoch, step, *, seconds):
        """A report ``seconds`` after the last one: two epochs of 50 steps of 30 users."""
        self.now += seconds
        self.display.step(StepReport(epoch, 2, step, 50, 30 * step, TERMS))

    @property
    def last_line(self):
        """The live line as it was at the end."""
        return next(
            line for line in self.written.getvalue().splitlines()[::-1] if "users/s" in line
        )


def test_a_terminal_shows_epoch_terms_speed_and_time_left(monkeypatch):
    watched = Watched(monkeypatch)
    with watched.display.running():
        for step in (10, 20, 30):
            watched.step(1, step, seconds=10)
    assert "epoch 1/2 " in watched.last_line
    assert " nll 412.3  kl 3.25  align 0.5 " in watched.last_line
    assert " 30 users/s " in watched.last_line
    assert "0:01:10" in watched.last_line  # 70 of 100 steps are left, at a step a second
    assert watched.last_line.count("━") == 6  # of 20


def test_the_next_epoch_goes_on_and_validation_slows_nothing_down(monkeypatch):
    watched = Watched(monkeypatch)
    with watched.display.running():
        watched.step(1, 50, seconds=50)
        watched.now += 1000
        watched.display.epoch({"epoch": 1, **TERMS, "validation_ndcg@100": 0.25})
        watched.step(2, 10, seconds=10)
    assert "epoch 2/2 " in watched.last_line
    assert watched.last_line.count("━") == 12
    assert " 30 users/s " in watched.last_line
    line = "epoch   1  nll 412.3  kl 3.25  align 0.5  ndcg@100 0.2500  30 users/s"
    assert line in watched.written.getvalue()


def test_no_terminal_gets_a_line_per_epoch_and_no_bar(monkeypatch):
    watched = Watched(monkeypatch, terminal=False)
    with watched.display.running():
        watched.step(1, 50, seconds=50)
        watched.display.epoch({"epoch": 1, "nll": 412.34})
    assert watched.written.getvalue() == "epoch   1  nll 412.3  30 users/s\n"


def test_one_of_several_trainings_leaves_no_lines(monkeypatch):
    watched = Watched(monkeypatch, terminal=False, line_per_epoch=False)
    with watched.display.running():
        watched.step(1, 50, seconds=50)
        watched.display.epoch({"epoch": 1, "nll": 412.34})
    assert watched.written.getvalue() == ""
