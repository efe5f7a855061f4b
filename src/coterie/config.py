"""The base of every configuration: immutable, and unknown keys are errors that name the nearest."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from coterie.errors import ConfigError

HIGHEST_SEED = 2**63 - 1  # what fits the types that seeds pass through


class Config(BaseModel):
    """Immutable settings; each default is written once, in the class that uses it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = get_close_matches(str(key), cls.model_fields, n=1)
                    hint = f"; did you mean {near[0]!r}?" if near else "."
                    known = ", ".join(cls.model_fields)
                    raise ConfigError(
                        f"{cls.__name__} has no setting {key!r}{hint} It knows: {known}."
                    )
        return values

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Validate ``values``; a :class:`ConfigError` names each wrong setting."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise config_error(cls.__name__, error) from error


def must_be_default(config: Config, name: str, *, used: bool, by: str) -> None:
    """Refuse the setting ``name`` if nothing uses it and it is not at its default.

    ``by`` says what would use it.
    """
    default = type(config).model_fields[name].default
    if not used and getattr(config, name) != default:
        raise ConfigError(
            f"{name}={getattr(config, name)!r} does nothing: only {by} uses it. Leave it out, or "
            "choose that."
        )


def config_error(name: str, error: ValidationError) -> ConfigError:
    """One line per wrong setting of pydantic's error: where, what is expected, what came."""
    lines = []
    for item in error.errors():
        where = ".".join([name, *map(str, item["loc"])])
        ours = item.get("ctx", {}).get("error")  # raised by a validator
        said = isinstance(ours, ConfigError) or item["type"] == "missing"  # then all of the table
        came = "" if said else f", got {item['input']!r}"
        what = str(ours or item["msg"])
        lines.append(what if what.startswith(f"{where} ") else f"{where}: {what}{came}")
    return ConfigError("\n".join(lines))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, table by table."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merged(inner, value)
        result[key] = value
    return result
