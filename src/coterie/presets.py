"""Models by their names in the literature: settings as published, and what is worth tuning.

Each name has a variant ``name+pia`` with Personalized Item Alignment. Settings that a preset does
not mention are the defaults of their classes, which are those of Multi-VAE.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from coterie.config import merged
from coterie.errors import ConfigError
from coterie.spaces import Choice, Range, SearchSpace
from coterie.training.config import Experiment

__all__ = [
    "PRESETS",
    "Choice",
    "Range",
    "SearchSpace",
    "architecture",
    "experiment",
    "resolved",
    "search_space",
]

PIA = "+pia"
_SETTINGS: dict[str, dict[str, Any]] = {
    "multi-vae": {},
    "multi-dae": {"objective": {"beta": {"kind": "constant", "end": 0.0}}},
    # The authors' script makes 50 sets of 3 + 1 epochs on MovieLens-20M.
    "recvae": {
        "objective": {"gamma": 0.005},
        "training": {
            "epochs": 200,
            "encoder_epochs": 3,
            "decoder_epochs": 1,
            "learning_rate": 5e-4,
        },
    },
    # As the authors' example for Netflix: β warms up to 0.3 over 100 epochs.
    "h-vamp-gated": {
        "objective": {"beta": {"kind": "linear", "end": 0.3, "epochs": 100}},
        "training": {"epochs": 400, "batch_size": 200, "learning_rate": 5e-4, "patience": 50},
    },
}
# λ_A of `+pia`. RecVAE's decoder is linear: shrunken codes are shrunken logits, and on the
# validation users of MovieLens-1M a weight of .25 and more was behind no alignment.
_LAMBDA_A = {"multi-vae": 1.0, "multi-dae": 1.0, "recvae": 0.005, "h-vamp-gated": 1.0}

_COMMON: dict[str, Range | Choice] = {
    "objective.keep_probability": Range(0.3, 0.9),
    "training.learning_rate": Range(2e-4, 3e-3, log=True),
    "training.batch_size": Choice((100, 200, 500)),
}
_BETA: dict[str, Range | Choice] = {
    "objective.beta.end": Range(0.05, 1.0, log=True),
    "objective.beta.epochs": Choice((10, 20, 50, 100)),
}
_SPACES: dict[str, dict[str, Range | Choice]] = {
    "multi-vae": {
        **_COMMON,
        **_BETA,
        "model.hidden_dims": Choice(((), (600,))),
        "model.latent_dim": Choice((100, 200, 400)),
    },
    "multi-dae": {
        **_COMMON,
        "model.hidden_dims": Choice(((), (600,))),
        "model.latent_dim": Choice((100, 200, 400)),
        "training.weight_decay": Choice((0.0, 1e-3, 1e-2, 1e-1)),
    },
    "recvae": {
        **_COMMON,
        "objective.gamma": Range(0.001, 0.05, log=True),
        "model.latent_dim": Choice((100, 200, 400)),
    },
    "h-vamp-gated": {
        **_COMMON,
        **_BETA,
        "model.latent_dim": Choice((200, 400)),
        "model.prior.n_pseudo_inputs": Choice((500, 1000)),
    },
}

PRESETS: tuple[str, ...] = tuple(f"{name}{suffix}" for name in _SETTINGS for suffix in ("", PIA))
"""All names."""


def experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The settings of a preset.

    Parameters
    ----------
    name
        One of :data:`PRESETS`.
    overrides
        Nested settings that take the place of the preset's, each key by itself.

    Raises
    ------
    ConfigError
        There is no such preset (the nearest is named), or a setting is wrong.
    """
    base = architecture(name)
    values = merged({"model": {"name": base}}, _SETTINGS[base])
    if name != base:
        values = merged(values, {"objective": {"alignment": {"end": _LAMBDA_A[base]}}})
    return Experiment.read(merged(values, overrides or {}))


def resolved(given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """The settings ``given``, over the preset that their ``model.name`` names.

    Parameters
    ----------
    given
        Nested settings, not yet validated.
    base
        A run's own settings, which take the preset's place.

    Raises
    ------
    ConfigError
        There is no such preset, or its name asks for alignment and the settings switch it off.
    """
    table = given.get("model")
    name = table.get("name") if isinstance(table, Mapping) else None
    if base is None:
        base = experiment(str(name or "multi-vae")).model_dump()
    values = merged(_without_the_other_weight(base, given), given)
    if name is None:
        return values
    values["model"]["name"] = architecture(str(name))
    weight = values["objective"]["alignment"] if name.endswith(PIA) else None
    if isinstance(weight, Mapping) and not (weight.get("start") or weight.get("end")):
        raise ConfigError(
            f"{name} aligns, but alignment.end is 0; leave out {PIA}, or give it a weight."
        )
    return values


def _without_the_other_weight(
    base: Mapping[str, Any], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """``base`` without β where γ is given, and the other way round: one replaces the other."""
    objective = given.get("objective")
    asked = set(objective) & {"beta", "gamma"} if isinstance(objective, Mapping) else set()
    if len(asked) != 1:
        return base
    dropped = ({"beta", "gamma"} - asked).pop()
    kept = {key: value for key, value in base["objective"].items() if key != dropped}
    return {**base, "objective": kept}


def search_space(name: str) -> SearchSpace:
    """What is worth tuning of a preset; errors as in :func:`experiment`."""
    base = architecture(name)
    if name == base:
        return dict(_SPACES[base])
    usual = _LAMBDA_A[base]
    weight = Range(usual / 20, usual * 10, log=True)
    return {**_SPACES[base], "objective.alignment.end": weight}


def architecture(name: str) -> str:
    """The name without ``+pia``; errors as in :func:`experiment`."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"There is no model {name!r}{hint} It is one of {', '.join(PRESETS)}.")
    return name.removesuffix(PIA)
