"""What every measure gives, and how large a sample it may take."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.numbers import UNCERTAIN, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOMINAL_RATE = 2e10  # float32 operations per second that a budget reckons with: two modest cores


@dataclass(frozen=True)
class SampleSize:
    """How much was looked at.

    Parameters
    ----------
    used, available
        Of the unit; ``used`` is at most ``available``.
    unit
        What is counted: ``"users"``, ``"pairs of users"``.
    """

    used: int
    available: int
    unit: str

    def __str__(self) -> str:
        if self.used == self.available:
            return f"all {self.used:,} {self.unit}"
        return f"{self.used:,} of {self.available:,} {self.unit}"


@dataclass(frozen=True)
class Budget:
    """What a measure may take.

    Sizes follow from costs and a nominal rate, not from a clock: the same budget, data and seed
    give the same sample, and so the same figures, on every machine.

    Parameters
    ----------
    seconds
        At ``NOMINAL_RATE`` operations per second; real machines are often faster.
    memory
        Bytes of working memory, beyond model and data.
    """

    seconds: float = 8.0
    memory: float = 1e9

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.memory > 0):
            raise ConfigError(
                f"A budget needs seconds > 0 and memory > 0, got {self.seconds} and {self.memory}."
            )

    def share(self, fraction: float) -> "Budget":
        """The same memory and a part of the time."""
        return Budget(self.seconds * fraction, self.memory)

    def most(
        self, available: int, *, operations: float, memory: float, least: int, unit: str
    ) -> SampleSize:
        """As many as time and memory allow, at most ``available``.

        Parameters
        ----------
        operations, memory
            Floating-point operations and bytes that each one costs.
        least
            Fewer than this make no measurement.

        Raises
        ------
        DataError
            Fewer than ``least`` are available, or fit into the memory; the message says which.
        """
        if available < least:
            raise DataError(
                f"This measure needs at least {least} {unit}, got {available}; pass more data."
            )
        fit = int(self.memory // memory) if memory else available
        if fit < least:
            raise DataError(
                f"The memory budget of {size(self.memory)} fits {fit} {unit}, but at least "
                f"{least} are needed: allow {size(least * memory)}."
            )
        affordable = int(self.seconds * NOMINAL_RATE // operations) if operations else available
        return SampleSize(max(least, min(available, fit, affordable)), available, unit)


class Measurement(ABC):
    """A measured mechanism: figures, a table, a picture, and a sentence that says what it means.

    Subclasses are frozen dataclasses. Class variables: ``name`` (a word for files and JSON),
    ``title`` (a heading), ``meaning`` (how to read it, two or three sentences), ``method`` (how
    it was computed, with the numbered result of the source) and ``headline`` (the figures that
    tables show; all if it is empty).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    meaning: ClassVar[str]
    method: ClassVar[str]
    headline: ClassVar[tuple[str, ...]] = ()
    sample: SampleSize

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The figures by name, the same names for every model, so that they compare.

        ``x_se`` is the standard error of ``x``, ``x_low`` and ``x_high`` are an interval of it.
        """

    def headlines(self) -> dict[str, float]:
        """The figures that tables show, with their standard errors and intervals."""
        if not self.headline:
            return self.figures()
        names = {*self.headline, *(f"{x}_{of}" for x in self.headline for of in UNCERTAIN)}
        return {name: value for name, value in self.figures().items() if name in names}

    @abstractmethod
    def sentence(self) -> str:
        """What was found, with numbers, for a reader who knows recommenders but not the paper."""

    @abstractmethod
    def to_frame(self) -> pl.DataFrame:
        """The measured values as a tidy table."""

    @abstractmethod
    def plot(self) -> "Figure":
        """A figure that is not attached to any window; needs the extra ``mechanisms``."""

    def warnings(self) -> list[str]:
        """What limits these figures (saturation, violations); empty if nothing does."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Figures, sentence, warnings and sample size; only what JSON can hold."""
        return {
            "name": self.name,
            "figures": self.figures(),
            "sentence": self.sentence(),
            "warnings": self.warnings(),
            "sample": {
                "used": self.sample.used,
                "available": self.sample.available,
                "unit": self.sample.unit,
            },
        }


def with_histories(user_items: Interactions) -> np.ndarray:
    """Users who have at least one item, int64, ascending."""
    return np.flatnonzero(user_items.history_lengths)


def choose(users: np.ndarray, size: int, generator: torch.Generator) -> np.ndarray:
    """``size`` of the users without repeats, ascending; all of them if there are no more."""
    if size >= len(users):
        return users
    order = torch.randperm(len(users), generator=generator).numpy()
    return np.sort(users[order[:size]])


def choose_pairs(n_users: int, size: int, generator: torch.Generator) -> np.ndarray:
    """Distinct unordered pairs ``u < v`` of 0 … n − 1, int64 ``[P, 2]``, sorted; at most ``size``.

    All n(n − 1)/2 pairs if that is no more than ``size``.
    """
    every = n_users * (n_users - 1) // 2
    if size >= every:
        return np.stack(np.triu_indices(n_users, 1), axis=1)
    found = np.empty(0, dtype=np.int64)
    while len(found) < size:
        drawn = torch.randint(0, n_users, (2 * size + 8, 2), generator=generator).numpy()
        drawn = np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1)
        keys = np.concatenate([found, drawn[:, 0] * n_users + drawn[:, 1]])
        _, first = np.unique(keys, return_index=True)
        found = keys[np.sort(first)][:size]
    found.sort()
    return np.stack(np.divmod(found, n_users), axis=1)
