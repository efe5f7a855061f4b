"""An experiment as the text of its file."""

import json
from typing import Any

from coterie.experiment.settings import Experiment


def to_toml(experiment: Experiment) -> str:
    """TOML from which :func:`~coterie.experiment.settings.read_experiment` reads the same again."""
    values = experiment.model_dump(mode="json", exclude_none=True)
    return "".join(f"{name} = {_value(value)}\n" for name, value in values.items())


def _value(value: Any) -> str:
    """JSON but for tables: TOML's strings, numbers, booleans and arrays are nearly JSON's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)  # TOML has no surrogates,
    return text.replace("\x7f", "\\u007f")  # and forbids this bare
