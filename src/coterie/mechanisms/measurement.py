"""What every measure gives, and how large a sample it may take."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.numbers import UNCERTAIN, size
from coterie.recommender import Recommender

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

NOMINAL_RATE = 2e10  # float32 operations per second that a budget reckons with: two modest cores
LEAST_USERS = 10  # fewer users or pairs behind a figure say nothing
LEAST_PAIRS = 100  # of a measure whose figures are of tenths of its pairs


class SmallBudgetError(DataError):
    """A budget that lets too little be looked at, though there is more."""


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
            Fewer than ``least`` are available.
        SmallBudgetError
            Fewer than ``least`` fit into the memory.
        """
        if available < least:
            raise DataError(
                f"This measure needs at least {least} {unit}, got {available}; pass more data."
            )
        fit = int(self.memory // memory) if memory else available
        if fit < least:
            raise SmallBudgetError(
                f"The memory budget of {size(self.memory)} fits {fit} {unit}, but at least "
                f"{least} are needed: allow {size(least * memory)}."
            )
        affordable = int(self.seconds * NOMINAL_RATE // operations) if operations else available
        return SampleSize(max(least, min(available, fit, affordable)), available, unit)


class Measurement(ABC):
    """A measured mechanism: figures, a table, a picture, and a sentence that says what it means.

    Subclasses are frozen dataclasses. Class variables: ``name`` (a word for files and JSON),
    ``title`` (a heading), ``meaning`` (how to read it, two or three sentences), ``method`` (how
    it was computed, with the numbered result of the source), ``headline`` (the figures that
    tables show; all if it is empty) and ``labels`` (names that tables show instead).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    meaning: ClassVar[str]
    method: ClassVar[str]
    headline: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[Mapping[str, str]] = {}
    sample: SampleSize

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The figures by name, the same names for every model, so that they compare.

        ``x_se`` is the standard error of ``x``, ``x_low`` and ``x_high`` are an interval of it.
        """

    def headlines(self) -> dict[str, float]:
        """The figures that tables show, with their standard errors and intervals.

        By their labels; NaN, which tables show as ``–``, where :meth:`hidden` says so.
        """
        figures, hidden = self.figures(), self.hidden()
        found = {}
        for name in self.headline or figures:
            for key in (name, *(f"{name}_{of}" for of in UNCERTAIN)):
                if key in figures:
                    label = self.labels.get(name, name) + key.removeprefix(name)
                    found[label] = float("nan") if name in hidden else figures[key]
        return found

    def hidden(self) -> frozenset[str]:
        """Headline figures that say nothing here, for example as too few pairs stand behind."""
        return frozenset()

    def bounds(self) -> frozenset[str]:
        """Headline figures that are only bounds here, so that differences of them say nothing."""
        return frozenset()

    def too_small(self) -> str:
        """Why so small a sample says nothing, as a sentence; empty if it says something."""
        return too_few(self.sample.used, LEAST_USERS, self.sample.unit)

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


def too_few(used: int, least: int, unit: str) -> str:
    """A sentence if fewer than ``least`` of the unit were looked at, else nothing."""
    if used >= least:
        return ""
    return (
        f"Only {used} {unit} would stand behind its figures, but at least {least} are needed: "
        "allow a larger budget, or pass more users."
    )


def sought_among(users: SampleSize, effect: str) -> list[str]:
    """A warning that neighbours are the nearest of a sample; none if all users are candidates.

    ``effect`` says what would be otherwise among more users.
    """
    if users.used == users.available:
        return []
    return [
        f"Nearest neighbours were sought among {users.used:,} of {users.available:,} users; among "
        f"more of them {effect}. Compare only runs of one budget."
    ]


def of_model(measure: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses a :class:`Recommender` (:class:`ConfigError`) for its model."""

    @wraps(measure)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = args[0] if args else kwargs.get("model", kwargs.get("models"))
        if any(isinstance(of, Recommender) for of in _each(given)):
            raise ConfigError(
                f"{getattr(measure, '__name__', 'This measure')} measures a model, but got a "
                "Recommender: pass recommender.model."
            )
        return measure(*args, **kwargs)

    return checked


def _each(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else [given]


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
