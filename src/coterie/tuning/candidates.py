"""What can be tuned: the presets and the baselines, each with its search space."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from coterie.comparison.contestants import BaselineContestant, Contestant, VaeContestant
from coterie.config import merged
from coterie.errors import ConfigError
from coterie.models.baselines import METHODS
from coterie.presets import PRESETS, resolved, search_space
from coterie.spaces import Choice, Range, SearchSpace
from coterie.training.config import Experiment, TrainingConfig

MODELS = (*PRESETS, *(name for name, method in METHODS.items() if method.config.search))
"""The names of all models that can be tuned."""

MISSING = object()
Tables = dict[str, Any]
"""A configuration file: nested settings."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model with its search space.

    Parameters
    ----------
    name
        One of :data:`MODELS`.
    space
        What is searched.
    fixed
        Other settings that are not the model's own values.
    metric
        The validation metric that is maximised.
    seed
        Of weights, order, masks and noise: the same in all trials.
    """

    name: str
    space: SearchSpace
    fixed: Mapping[str, Any]
    metric: str
    seed: int

    @property
    def preset(self) -> dict[str, Any]:
        """The values that the model has by itself, which the first trial tries."""
        own = self.own_values()
        return {key: value for key in self.space if (value := _at(own, key)) is not MISSING}

    def tables(self, settings: Mapping[str, Any]) -> Tables:
        """The configuration file that trains the model with these settings."""
        given: Tables = {"model": {"name": self.name}}
        if self.name in PRESETS and self.metric != TrainingConfig().metric:
            given["training"] = {"metric": self.metric}
        for key, value in {**self.fixed, **settings}.items():
            given = merged(given, _nested(key, value))
        return given

    def contestant(self, settings: Mapping[str, Any]) -> Contestant:
        """The model with these settings, to be trained; :class:`ConfigError` if one is wrong."""
        given = self.tables(settings)
        if self.name in METHODS:
            return _baseline(self.name, given)
        seeded = merged({"training": {"seed": self.seed}}, given)
        experiment = Experiment.read(dict(resolved(seeded)))
        return VaeContestant(name=self.name, experiment=experiment)

    def identity(self) -> dict[str, Any]:
        """What all trials have in common, the data and the sampler apart; JSON."""
        return {
            "model": self.contestant({}).settings(),
            "metric": self.metric,
            "training seed": self.seed,
            "space": {
                key: {"values": list(of.values)}
                if isinstance(of, Choice)
                else {"low": of.low, "high": of.high, "log": of.log}
                for key, of in self.space.items()
            },
        }

    def own_values(self) -> Tables:
        """All settings that the model has by itself, with what is fixed."""
        one = self.contestant({})
        if isinstance(one, VaeContestant):
            return one.experiment.model_dump(mode="json")
        assert isinstance(one, BaselineContestant)
        return {self.name: one.config().model_dump(mode="json")}


def candidate(
    name: str,
    *,
    metric: str = TrainingConfig().metric,
    fixed: Mapping[str, Any] | None = None,
    search: Mapping[str, Range | Choice] | None = None,
    seed: int = 0,
) -> Candidate:
    """A model by its name, its search space narrowed or replaced.

    Parameters
    ----------
    name
        One of :data:`MODELS`.
    metric
        Validation metric, for example ``ndcg@100``.
    fixed
        Settings by dotted name that are not searched but have this value.
    search
        Entries that take the place of the model's own, or are added to them.
    seed
        Of the training of all trials.

    Raises
    ------
    ConfigError
        There is no such model or setting, or a value of a range is not allowed.
    """
    own = _own_space(name)
    fixed = dict(fixed or {})
    space = {key: of for key, of in {**own, **(search or {})}.items() if key not in fixed}
    if not space:
        why = "fix fewer settings" if fixed else "leave it out"
        raise ConfigError(f"{name} has nothing{' left' if fixed else ''} to search; {why}.")
    made = Candidate(name, space, fixed, metric, seed)
    for key, of in space.items():
        for value in of.values if isinstance(of, Choice) else (of.low, of.high):
            made.contestant({key: value})
    return made


def knows(name: str, setting: str) -> bool:
    """Whether a model has a setting of this dotted name."""
    _own_space(name)  # which knows the names
    made = Candidate(name, {}, {}, TrainingConfig().metric, 0)
    return _at(made.own_values(), setting) is not MISSING


def _own_space(name: str) -> SearchSpace:
    if name in METHODS:
        return {f"{name}.{key}": of for key, of in METHODS[name].config.search.items()}
    if name not in PRESETS:
        near = get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"There is no model {name!r}{hint} It is one of {', '.join(MODELS)}.")
    return search_space(name)


def _baseline(name: str, given: Tables) -> BaselineContestant:
    strange = set(given) - {"model", name} | (set(given["model"]) - {"name"})
    if strange:
        raise ConfigError(f"{name} has no settings {', '.join(sorted(strange))}; it has {name}.….")
    made = BaselineContestant(name=name, method=name, options=given.get(name, {}))
    made.config()
    return made


def _nested(key: str, value: Any) -> Tables:
    for part in reversed(key.split(".")):
        value = {part: value}
    table: Tables = value
    return table


def _at(values: Any, key: str) -> Any:
    """The value of a dotted name; :data:`MISSING` if there is none."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return MISSING
        values = values[part]
    return values
