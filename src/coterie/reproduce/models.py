"""Which models a reproduction trains, with the settings that their papers have for a data set."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from coterie.comparison.contestants import BaselineContestant, Contestant, VaeContestant
from coterie.models.baselines import METHODS
from coterie.presets import PIA, PRESETS, experiment
from coterie.reproduce.published import metrics_of, published

_OF_DATA: Mapping[tuple[str, str], dict[str, Any]] = MappingProxyType(
    {
        # Shenbin et al., WSDM 2020: γ by data set; the presets have MovieLens-20M's.
        ("recvae", "netflix"): {"objective": {"gamma": 0.0035}},
        ("recvae", "msd"): {"objective": {"gamma": 0.01}},
        # Steck, WWW 2019, section 4: λ by data set; the default is MovieLens-20M's.
        ("ease", "netflix"): {"l2": 1000.0},
        ("ease", "msd"): {"l2": 200.0},
    }
)
"""What differs from the preset, by model and data set."""


def usual_models(data: str) -> tuple[str, ...]:
    """The models that have published figures on a data set, and of each VAE the one with PIA."""
    known = [row.model for row in published(data) or published("ml-20m")]
    ours = [name for name in known if name in PRESETS or name in METHODS]
    aligned = [f"{name}{PIA}" for name in ours if f"{name}{PIA}" in PRESETS]
    return tuple(dict.fromkeys([*ours, *aligned]))


def usual_contestant(model: str, data: str) -> Contestant:
    """A model by its name, as its paper trains it on a data set; by the NDCG that is reported."""
    base = model.removesuffix(PIA)
    own = _OF_DATA.get((base, data), {})
    if model in METHODS:
        return BaselineContestant(name=model, method=model, options=own)
    metric = {"training": {"metric": metrics_of(data)[-1]}}
    return VaeContestant(name=model, experiment=experiment(model, {**own, **metric}))
