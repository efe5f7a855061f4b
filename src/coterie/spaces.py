"""What a tuner may draw for a setting; models declare it beside their settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Real numbers from ``low`` to ``high``; ``log`` asks for equal ratios instead of steps."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise ConfigError(
                f"A range needs low < high, and low > 0 if it is logarithmic; got {self}."
            )


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ConfigError(f"A choice needs at least two values; got {self.values}.")


SearchSpace = Mapping[str, Range | Choice]
"""What a tuner draws, by dotted setting."""
