"""What ``coterie train`` does for a baseline: its flags, and fitting it in one go."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from coterie.cli.options import Section, Settings
from coterie.cli.output import Output
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.evaluation.protocol import evaluate
from coterie.models.baselines import METHODS
from coterie.models.model import BaselineConfig
from coterie.recommender import Recommender
from coterie.training.config import Experiment, RunContext, TrainingConfig

SECTIONS = tuple(
    Section(
        method.config,
        name,
        at=name,
        flags={field: (f"--{name}.{field}",) for field in method.config.model_fields},
    )
    for name, method in METHODS.items()
    if method.config.model_fields
)


def chosen(settings: Settings) -> BaselineConfig | None:
    """The settings of the baseline that ``--model`` names; None if it names none.

    Raises
    ------
    ConfigError
        A flag is another model's, or a value is out of range.
    """
    model = settings.values(Experiment).get("model", {})
    name = model.get("name") if isinstance(model, Mapping) else None
    method = METHODS.get(name) if isinstance(name, str) else None
    own = None if method is None else method.config
    others = [section for section in SECTIONS if section.model is not own]
    strange = [f"{other.at}.{key}" for other in others for key in settings.flagged(other.model)]
    if method is None:
        if strange:
            raise ConfigError(
                f"{strange[0]} is a setting of a baseline; name it (--model), or leave that out."
            )
        return None
    named = {"model": {key: value for key, value in model.items() if key != "name"}}
    flagged = {**settings.flagged(Experiment), **named, "run": settings.flagged(RunContext)}
    strange += _dotted(flagged)
    if strange:
        known = ", ".join(f"--{name}.{key}" for key in method.config.model_fields) or "none"
        raise ConfigError(f"{name} has no setting {strange[0]}; it has {known}.")
    return settings.read(method.config) if method.config.model_fields else method.config()


def fitted(
    config: BaselineConfig, data: Split, output: Output
) -> tuple[Recommender, dict[str, Any]]:
    """The baseline, and how long it took and how good it is on the validation users."""
    start = time.perf_counter()
    with output.counting(config.name) as progress:
        recommender = Recommender.fit(config, data.train, progress=progress)
    facts: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "n_parameters": recommender.model.n_parameters,
    }
    if data.validation.held_out.nnz:
        metric = TrainingConfig().metric
        cut = int(metric.partition("@")[2])
        with output.counting("users") as progress:
            measured = evaluate(recommender, data.validation, ks=(cut,), progress=progress)
        facts[f"validation_{metric}"] = measured[metric]
        recommender.metadata[f"validation_{metric}"] = measured[metric]
    return recommender, facts


def _dotted(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _dotted(value))
        else:
            yield key
