"""What is known of a finished trial, and which of several is the best."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

Outcome = Literal["complete", "pruned", "out of time", "diverged"]


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Parameters
    ----------
    number
        From 1, in the order in which the model's trials began.
    outcome
        ``complete``; ``pruned`` (worse than the median at the same epoch) and ``out of time`` were
        ended early; ``diverged`` met NaN or Inf.
    value
        Best validation figure that it reached; None if it reached none.
    best_epoch, epochs
        Where, and how many epochs it trained; None for models that have no epochs.
    seconds
        Training and validation together.
    settings
        Value of each setting in the search space, by dotted name.
    """

    number: int
    outcome: Outcome
    value: float | None
    best_epoch: int | None
    epochs: int | None
    seconds: float
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The highest value, the earlier of equals; None if no trial has one.

    A trial that was ended early counts with what it had reached: it was measured. One that was
    pruned cannot win, because half of the whole trials were better already.
    """
    valued = [record for record in records if record.value is not None]
    return max(valued, key=lambda record: (record.value, -record.number), default=None)


def trials_frame(model: str, records: Sequence[TrialRecord]) -> pl.DataFrame:
    """One row per trial; settings that are lists (layer widths) as text."""
    names = list(dict.fromkeys(name for record in records for name in record.settings))
    rows = [
        {
            "model": model,
            **{name: getattr(record, name) for name in SHARED},
            **{name: _cell(record.settings.get(name)) for name in names},
        }
        for record in records
    ]
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=TYPES, strict=False)


TYPES = {
    "number": pl.Int64(),
    "outcome": pl.String(),
    "value": pl.Float64(),
    "best_epoch": pl.Int64(),
    "epochs": pl.Int64(),
    "seconds": pl.Float64(),
}
SHARED = tuple(TYPES)


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
