"""Observers that write training down: TensorBoard, and several observers as one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from coterie.errors import MissingExtraError
from coterie.training.loop import Observer, StepReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NOT_FIGURES = ("epoch", "step")  # of an epoch's record: they are the axis


class Observers:
    """Several observers as one; each is told in the order given."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def step(self, report: StepReport) -> None:
        """Pass the report on."""
        for observer in self._observers:
            observer.step(report)

    def epoch(self, record: dict[str, Any]) -> None:
        """Pass the record on."""
        for observer in self._observers:
            observer.epoch(record)


class TensorBoardObserver:
    """Writes loss terms (``train/…``) and each epoch's figures (``epoch/…``) for TensorBoard.

    The axis is the number of optimiser steps. A resumed run goes on in the same folder: what the
    run before wrote beyond the checkpoint is hidden by TensorBoard, so that no step shows twice.

    Parameters
    ----------
    folder
        Where the event files go.

    Raises
    ------
    MissingExtraError
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils import tensorboard
        except ImportError as error:
            raise MissingExtraError(
                "Writing for TensorBoard needs the package tensorboard: "
                "pip install coterie[tensorboard]"
            ) from error
        self.folder = Path(folder)
        self._create = tensorboard.SummaryWriter
        self._writer: SummaryWriter | None = None

    def step(self, report: StepReport) -> None:
        """Write the running means of the loss terms."""
        step = (report.epoch - 1) * report.steps_per_epoch + report.step_in_epoch
        self._write("train", report.terms, step)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write the epoch's figures, and everything so far to disk."""
        figures = {name: value for name, value in record.items() if name not in NOT_FIGURES}
        self._write("epoch", figures, record["step"])
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write everything to disk and end the event file; a later report begins another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, group: str, figures: dict[str, Any], step: int) -> None:
        if self._writer is None:  # only now is it known where a resumed run goes on
            self._writer = self._create(str(self.folder), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
