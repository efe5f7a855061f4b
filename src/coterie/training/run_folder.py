"""A run's folder: the last and the best checkpoint, and one line of metrics per epoch."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.errors import StorageError
from coterie.files import atomic_file
from coterie.training.checkpoint import load_checkpoint, save_checkpoint
from coterie.training.state import TrainingState

LAST, BEST, METRICS = "last.safetensors", "best.safetensors", "metrics.jsonl"


class RunFolder:
    """Where a run keeps what it needs to go on; without a path, the best weights in memory.

    Parameters
    ----------
    path
        The folder, or None.
    belongs_to
        The run's fingerprint; only checkpoints with the same one are loaded.
    """

    def __init__(self, path: Path | str | None, belongs_to: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._belongs_to = belongs_to
        self._best: list[Tensor] | None = None
        self._due = float("inf")
        self._interval = float("inf")

    def start(self) -> None:
        """Begin a new run; :class:`StorageError` if the folder holds one already."""
        self._create()
        if self.path is not None and (self.path / LAST).exists():
            raise StorageError(
                f"{self.path} holds a run already; resume it (--resume) or choose another folder."
            )

    def resume(self, state: TrainingState) -> None:
        """Load the last checkpoint into ``state``, if there is one."""
        self._create()
        if self.path is not None and (self.path / LAST).exists():
            state.progress = load_checkpoint(
                self.path / LAST, state.modules, state.optimizer, self._belongs_to
            )

    def _create(self) -> None:
        """Find out now, and not after the first epoch, that nothing can be written there."""
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (LAST, BEST, METRICS):  # what a killed run was writing
                for part in self.path.glob(f".{name}.*.part"):
                    part.unlink()
        except OSError as error:
            raise StorageError(
                f"The run folder {self.path} cannot be created: {error.strerror}. "
                "Choose another folder."
            ) from error

    def checkpoint_every(self, minutes: float) -> None:
        """Ask for a checkpoint (see :meth:`is_due`) when the last is older than this."""
        self._interval = minutes * 60
        self._due = time.monotonic() + self._interval

    def is_due(self) -> bool:
        """Whether the last checkpoint is older than asked for."""
        return self.path is not None and time.monotonic() >= self._due

    def save_last(self, state: TrainingState) -> None:
        """Write the checkpoint to resume from, and the metrics of the epochs so far."""
        self._due = time.monotonic() + self._interval
        if self.path is None:
            return
        save_checkpoint(
            self.path / LAST, state.modules, state.optimizer, state.progress, self._belongs_to
        )
        with atomic_file(self.path / METRICS) as aside:
            lines = [json.dumps(record) + "\n" for record in state.progress.history]
            aside.write_text("".join(lines))

    def save_best(self, state: TrainingState) -> None:
        """Keep the current weights as the best."""
        if self.path is not None:
            save_checkpoint(self.path / BEST, state.modules, None, state.progress, self._belongs_to)
        elif self._best is None:
            self._best = [parameter.detach().clone() for parameter in state.parameters]
        else:
            for kept, parameter in zip(self._best, state.parameters, strict=True):
                kept.copy_(parameter.detach())

    def restore_best(self, state: TrainingState) -> None:
        """Put the best weights back into the model; leave it as it is if none were kept."""
        if state.progress.best_epoch is None:
            return
        if self.path is not None:
            load_checkpoint(self.path / BEST, state.modules, None, self._belongs_to)
        elif self._best is not None:
            with torch.no_grad():
                for kept, parameter in zip(self._best, state.parameters, strict=True):
                    parameter.copy_(kept)
