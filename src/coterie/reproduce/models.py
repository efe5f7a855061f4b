"""Which models a reproduction trains, with the settings that their papers have for a data set."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from coterie.comparison.contestants import BaselineContestant, Contestant, VaeContestant
from coterie.config import merged
from coterie.data.datasets import DATASETS
from coterie.models.baselines import METHODS
from coterie.presets import PIA, PRESETS, experiment
from coterie.reproduce.published import metrics_of, published
from coterie.reproduce.sizes import SIZES

_BATCH = 500  # users per step, in all of Liang's runs
_ANNEALING = {"kind": "linear", "end": 0.2}
_ANNEALING_STEPS = 40_000  # at 1 / 200 000 each


def _as_liang(data: str, epochs: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Multi-VAE, whose β rises by the step, and Multi-DAE as Liang et al., WWW 2018, section 4.

    Multi-DAE without the L2 penalty, which is another thing than our weight decay.
    """
    users = SIZES[data].users - 2 * DATASETS[data].protocol.held_out_users
    ramp = {**_ANNEALING, "epochs": _ANNEALING_STEPS / math.ceil(users / _BATCH)}
    training = {"epochs": epochs, "batch_size": _BATCH, "patience": None}
    return {
        ("multi-dae", data): {"training": training},
        ("multi-vae", data): {"objective": {"beta": ramp}, "training": training},
        # The default of the code published with arXiv 2511.06781, whose schedule is not documented.
        ("multi-vae+pia", data): {"objective": {"alignment": {"end": 8.0}}},
    }


_GOWALLA_EPOCHS = 60

_OF_DATA: Mapping[tuple[str, str], dict[str, Any]] = MappingProxyType(
    {
        **_as_liang("ml-20m", 200),
        **_as_liang("netflix", 100),
        **_as_liang("msd", 100),
        # Shenbin et al., WSDM 2020: γ by data set; the presets have MovieLens-20M's.
        ("recvae", "netflix"): {"objective": {"gamma": 0.0035}},
        ("recvae", "msd"): {"objective": {"gamma": 0.01}},
        # Steck, WWW 2019, section 4: λ by data set; the default is MovieLens-20M's.
        ("ease", "netflix"): {"l2": 1000.0},
        ("ease", "msd"): {"l2": 200.0},
        # No paper's: ours, tuned on validation items of the training users (benchmarks/gowalla.py).
        ("multi-vae", "gowalla"): {
            "model": {"hidden_dims": ()},
            "objective": {"beta": {"kind": "linear", "end": 1.0, "epochs": 10}},
            "training": {
                "epochs": _GOWALLA_EPOCHS,
                "batch_size": 1000,
                "learning_rate": 0.004,
                "learning_rate_schedule": {"kind": "linear", "end": 0.0, "epochs": _GOWALLA_EPOCHS},
                "evaluate_every": 5,
                "patience": None,
            },
        },
        ("multi-vae+pia", "gowalla"): {"objective": {"alignment": {"end": 0.1}}},
    }
)
"""What differs from the preset, by model and data set; of ``+pia``, from its model without."""


def usual_models(data: str) -> tuple[str, ...]:
    """The models that have published figures on a data set, and of each VAE the one with PIA."""
    known = [row.model for row in published(data) or published("ml-20m")]
    ours = [name for name in known if name in PRESETS or name in METHODS]
    aligned = [f"{name}{PIA}" for name in ours if f"{name}{PIA}" in PRESETS]
    return tuple(dict.fromkeys([*ours, *aligned]))


def usual_contestant(model: str, data: str) -> Contestant:
    """A model by its name, as its paper trains it on a data set; by the NDCG that is reported."""
    base = model.removesuffix(PIA)
    own = merged(_OF_DATA.get((base, data), {}), _OF_DATA.get((model, data), {}))
    if model in METHODS:
        return BaselineContestant(name=model, method=model, options=own)
    metric = {"training": {"metric": metrics_of(data)[-1]}}
    return VaeContestant(name=model, experiment=experiment(model, merged(own, metric)))
