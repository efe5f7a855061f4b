"""Search spaces: read from a file, narrowed by fixed values, and in Optuna's terms."""

import json
from typing import TYPE_CHECKING, Any

from coterie.errors import ConfigError
from coterie.spaces import Choice, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


OUTSIDE = object()


def distribution(of: Range | Choice) -> "BaseDistribution":
    """Optuna's distribution; options are kept as JSON text, since they may be lists."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(of, Choice):
        return CategoricalDistribution([json.dumps(option) for option in of.values])
    if is_whole(of):
        return IntDistribution(int(of.low), int(of.high), log=of.log)
    return FloatDistribution(float(of.low), float(of.high), log=of.log)


def decoded(of: Range | Choice, value: Any) -> Any:
    """A value as Optuna keeps it → the setting's value."""
    return json.loads(value) if isinstance(of, Choice) else value


def encoded(of: Range | Choice, value: Any) -> Any:
    """The setting's value → as Optuna keeps it; :data:`OUTSIDE` if the space does not have it."""
    if isinstance(of, Choice):
        options = (json.dumps(option) for option in of.values)
        return next((text for text in options if json.loads(text) == value), OUTSIDE)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not of.low <= value <= of.high:
        return OUTSIDE
    if is_whole(of):
        return int(value) if value == int(value) else OUTSIDE
    return float(value)


def is_whole(of: Range) -> bool:
    """Whether a range holds whole numbers only."""
    return isinstance(of.low, int) and isinstance(of.high, int)


def read_entry(name: str, value: Any) -> Range | Choice:
    """A search entry of a configuration file: a table with a range, or a list of options.

    ``{low = 0.1, high = 1.0, log = true}`` or ``[100, 200, 400]``.

    Raises
    ------
    ConfigError
        It is neither, or the range is empty.
    """
    if isinstance(value, list):
        if len(value) < 2:
            raise ConfigError(
                f"search.{name}: there must be two options or more, got {value!r}; a single value "
                f"is fixed outside the search (--fix {name}=…)."
            )
        return Choice(tuple(value))
    number = int | float
    if (
        not isinstance(value, dict)
        or not {"low", "high"} <= set(value) <= {"low", "high", "log"}
        or not all(isinstance(value[key], number) for key in ("low", "high"))
        or any(isinstance(value[key], bool) for key in ("low", "high"))
        or not isinstance(value.get("log", False), bool)
    ):
        raise ConfigError(
            f"search.{name}: expected {{low = …, high = …}} (and log = true, if it is searched by "
            f"orders of magnitude) or a list of options, got {value!r}."
        )
    return Range(value["low"], value["high"], value.get("log", False))
