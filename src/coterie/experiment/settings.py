"""What an experiment is: arms, traffic, period, metrics and guardrails, declared in TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from coterie.config import Config
from coterie.errors import ConfigError, DataError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
WEIGHTS_SUM = 1e-9  # how far from 1 the weights may add up
DAY = timedelta(days=1)

Name = Annotated[str, Field(pattern=NAME)]
Share = Annotated[float, Field(gt=0, le=1)]
Kind = Literal["impression", "click", "watch"]
Quantity = Literal[
    "impressions",
    "clicks",
    "watches",
    "watch_seconds",
    "any_impression",
    "any_click",
    "any_watch",
]
Verdict = Literal[  # on a metric
    "better", "worse", "undecided", "held", "violated", "open", "too early", "no data", "not valid"
]


@dataclass(frozen=True)
class Column:
    """What is added up over a user's events: their number, or their seconds."""

    kind: Kind
    seconds: bool = False
    surface: str | None = None
    window_days: float | None = None


@dataclass(frozen=True)
class Term:
    """A user's value of a quantity: the column's sum, or whether it is above zero."""

    column: Column
    any: bool = False


QUANTITIES: Mapping[str, tuple[Kind, bool, bool]] = {  # kind, whether seconds, whether any
    "impressions": ("impression", False, False),
    "clicks": ("click", False, False),
    "watches": ("watch", False, False),
    "watch_seconds": ("watch", True, False),
    "any_impression": ("impression", False, True),
    "any_click": ("click", False, True),
    "any_watch": ("watch", False, True),
}


class Metric(Config):
    """A mean per user, or a ratio of two sums over users.

    The user is the unit in both: a ratio is (sum of the numerator) / (sum of the denominator) over
    an arm's users, with a standard error that knows that one user's events belong together.
    """

    name: Name = Field(description="How tables and verdicts call it.")
    numerator: Quantity = Field(description="What is added up.")
    denominator: Quantity | None = Field(
        None, description="By what the sum is divided; without it, by the number of users."
    )
    surface: Name | None = Field(None, description="Count only events of this surface.")
    numerator_surface: Name | None = Field(
        None, description="Instead of surface: count only its events, in the numerator."
    )
    denominator_surface: Name | None = Field(
        None, description="Instead of surface: count only its events, in the denominator."
    )
    window_days: float | None = Field(
        None, gt=0, description="Count only events within so many days of the user's entry."
    )
    better: Literal["higher", "lower"] = Field("higher", description="Which direction is good.")
    minimum_effect: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Smallest relative change worth finding; without it, the experiment's.",
    )

    @model_validator(mode="after")
    def _surfaces_fit(self) -> "Metric":
        if self.denominator_surface is not None and self.denominator is None:
            raise ConfigError(f"{self.name}: denominator_surface is given, but no denominator.")
        if self.surface is not None and (self.numerator_surface or self.denominator_surface):
            raise ConfigError(
                f"{self.name}: surface is that of numerator and denominator; give it, or "
                "numerator_surface and denominator_surface."
            )
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """Numerator, and denominator if there is one."""
        parts = (
            (self.numerator, self.numerator_surface),
            (self.denominator, self.denominator_surface),
        )
        return tuple(self._term(name, own or self.surface) for name, own in parts if name)

    def _term(self, name: str, surface: str | None) -> Term:
        kind, seconds, any_ = QUANTITIES[name]
        return Term(Column(kind, seconds, surface, self.window_days), any_)


def paper_metrics(surfaces: Iterable[str]) -> tuple[Metric, ...]:
    """Click-through per impression and per user, overall and by surface; watch time per user."""
    made = []
    for surface in (None, *surfaces):
        at = "" if surface is None else f".{surface}"
        made += [
            Metric(
                name=f"ctr_per_impression{at}",
                numerator="clicks",
                denominator="impressions",
                surface=surface,
            ),
            Metric(name=f"ctr_per_user{at}", numerator="any_click", surface=surface),
        ]
    return (*made, Metric(name="watch_seconds_per_user", numerator="watch_seconds"))


class Guardrail(Config):
    """A metric that must not become worse by more than a margin."""

    metric: Name = Field(description="The metric, which also says which direction is good.")
    margin: float = Field(gt=0, lt=1, description="Largest relative worsening that is accepted.")


class Group(Config):
    """A layer that experiments share without sharing users."""

    name: Name = Field(description="Experiments with this name exclude each other.")
    slice: tuple[float, float] = Field(description="From where to where, within 0 and 1.")

    @model_validator(mode="after")
    def _some_traffic(self) -> "Group":
        low, high = self.slice
        if not 0 <= low < high <= 1:
            raise ConfigError(
                f"slice is [from, to] with 0 <= from < to <= 1, got [{low:g}, {high:g}]."
            )
        return self


class Experiment(Config):
    """One experiment; the first arm is the one that the others are compared with."""

    name: Name = Field(description="Of the experiment; events carry it.")
    start: AwareDatetime = Field(description="When it begins, with a time zone.")
    end: AwareDatetime = Field(description="When it ends (exclusive), with a time zone.")
    arms: dict[Name, Annotated[float, Field(gt=0, lt=1)]] = Field(
        description="Share of the users of each arm; they sum to 1. The first is the control."
    )
    primary: Name = Field("ctr_per_impression", description="The metric that decides.")
    salt: Name | None = Field(
        None, description="Seasons the hash that assigns users; without it, the name."
    )
    group: Group | None = Field(None, description="Exclusive group, and this experiment's slice.")
    exposed: Share = Field(
        1.0, description="Share of the (group's slice of) users that take part; may only grow."
    )
    surfaces: tuple[Name, ...] = Field(
        (), description="Surfaces for which click-through is also given."
    )
    metrics: tuple[Metric, ...] = Field(
        (), description="Further metrics; one with a usual metric's name takes its place."
    )
    guardrails: tuple[Guardrail, ...] = Field((), description="What must not become worse.")
    decision: Literal["anytime", "end"] = Field(
        "anytime",
        description="Decide whenever one looks, by always-valid intervals; or once, at the end.",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Accepted rate of false alarms.")
    power: float = Field(
        0.8, gt=0.5, lt=1, description="Wanted chance to find the smallest effect, for planning."
    )
    minimum_effect: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Smallest relative change worth finding; also where always-valid intervals "
        "are tightest. Fix it before the start.",
    )
    pre_period_days: int = Field(
        14, ge=0, le=365, description="Days before the start that CUPED adjusts for; 0: none."
    )
    least_users: int = Field(
        200, ge=10, description="Users per arm below which nothing is concluded."
    )

    @field_validator("start", "end", mode="before")
    @classmethod
    def _has_a_zone(cls, value: Any) -> Any:
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ConfigError(
                f"a time needs a zone, as in 2026-03-01T00:00:00Z; got {value.isoformat()}."
            )
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> "Experiment":
        if self.end <= self.start:
            raise ConfigError(f"end must be after start, got {self.start} to {self.end}.")
        if len(self.arms) < 2:
            raise ConfigError(f"arms: expected two or more, got {len(self.arms)}.")
        total = sum(self.arms.values())
        if abs(total - 1) > WEIGHTS_SUM:
            raise ConfigError(f"arms: the weights must sum to 1, got {total:g}: {self.arms}.")
        _distinct("metrics", [metric.name for metric in self.metrics])
        _distinct("surfaces", self.surfaces)
        _distinct("guardrails", [guardrail.metric for guardrail in self.guardrails])
        for role, name in [("primary", self.primary)] + [
            ("guardrails", guardrail.metric) for guardrail in self.guardrails
        ]:
            if name not in self.every_metric:
                raise ConfigError(
                    f"{role}: there is no metric {name!r}; there are: "
                    f"{', '.join(self.every_metric)}."
                )
        if any(guardrail.metric == self.primary for guardrail in self.guardrails):
            raise ConfigError(f"{self.primary!r} is primary; a guardrail is another metric.")
        return self

    @property
    def every_metric(self) -> dict[str, Metric]:
        """The paper's metrics and the declared ones, by name; the primary first."""
        found = {metric.name: metric for metric in (*paper_metrics(self.surfaces), *self.metrics)}
        first = {self.primary: found[self.primary]} if self.primary in found else {}
        return {**first, **found}

    @property
    def arm_names(self) -> tuple[str, ...]:
        """In order; the first is the control."""
        return tuple(self.arms)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the arms, in order."""
        return tuple(self.arms.values())

    @property
    def seasoning(self) -> str:
        """The salt."""
        return self.salt or self.name

    @property
    def traffic(self) -> float:
        """Share of all users that take part."""
        low, high = self.group.slice if self.group else (0.0, 1.0)
        return (high - low) * self.exposed

    @property
    def days(self) -> int:
        """Length in days, the last one perhaps begun only."""
        return -((self.start - self.end) // DAY)

    def effect_of(self, metric: Metric) -> float:
        """The smallest relative change of a metric that is worth finding."""
        return self.minimum_effect if metric.minimum_effect is None else metric.minimum_effect


def read_experiment(path: Path) -> Experiment:
    """An experiment from a TOML file.

    Raises
    ------
    DataError
        The file cannot be read.
    ConfigError
        It is not TOML, or a setting is unknown or makes no sense; each is named.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The experiment {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The experiment {path} is not valid TOML: {error}.") from error
    try:
        return Experiment.read(values)
    except ConfigError as error:
        raise ConfigError(f"{path}:\n{error}") from error


def _distinct(what: str, names: Iterable[str]) -> None:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what}: {name!r} stands more than once.")
