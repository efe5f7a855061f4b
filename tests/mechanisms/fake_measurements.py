"""Measurements without a measure, to test what shows them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from coterie.mechanisms.diagnose import Diagnosis
from coterie.mechanisms.measurement import Measurement, SampleSize
from coterie.mechanisms.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Fake(Measurement):
    """Two figures, one of them not a number, and a plot of one or two axes."""

    name: ClassVar[str] = "fake"
    title: ClassVar[str] = "Fake distances"
    meaning: ClassVar[str] = "Large values mean that users lie far apart."
    method: ClassVar[str] = "Invented (Theorem 0)."
    value: float = 0.25
    said: str = "In this sample 25 % of the users were invented."
    warned: tuple[str, ...] = ()
    columns: int = 1
    marks: int = 3
    sample: SampleSize = field(default_factory=lambda: SampleSize(40, 1000, "pairs of users"))

    def figures(self) -> dict[str, float]:
        return {"share invented": self.value, "distance": float("nan"), "users": 12345.0}

    def sentence(self) -> str:
        return self.said

    def to_frame(self) -> pl.DataFrame:
        return pl.DataFrame({"x": [self.value]})

    def plot(self) -> "Figure":
        figure, axes = new_figure(self.columns)
        for at in axes:
            at.plot(range(self.marks), [self.value + place % 7 for place in range(self.marks)], "o")
            at.set(xlabel="distance (nats)", ylabel="share of pairs")
        return figure

    def warnings(self) -> list[str]:
        return list(self.warned)


@dataclass(frozen=True, eq=False)
class Wide(Fake):
    """A plot of two axes."""

    name: ClassVar[str] = "wide"
    title: ClassVar[str] = "Two plots in one"
    columns: int = 2


DATA = {"name": "invented", "users": 1000, "items": 60, "interactions": 15000}


def diagnosis(*, skipped: str = "", **options: object) -> Diagnosis:
    """Two measurements; the second is skipped for the given reason."""
    fake, wide = Fake(**options), Wide(**options)  # type: ignore[arg-type]
    made = {"fake": fake} if skipped else {"fake": fake, "wide": wide}
    reasons = {"wide": skipped} if skipped else {}
    return Diagnosis(made, reasons, {"fake": 0.5, "wide": 1.25}, seed=7, data=DATA)


@dataclass(frozen=True, eq=False)
class Map(Fake):
    """What is made once for all models."""

    name: ClassVar[str] = "latent_map"
    title: ClassVar[str] = "Map of the latent space"

    def figures(self) -> dict[str, float]:
        return {"expected": 0.5, "kept/first": 0.25, "kept/third": 0.125}
