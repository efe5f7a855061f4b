"""A tiny split and models that train on it in a tenth of a second."""

from collections.abc import Mapping
from typing import Any

from coterie.data.parts import Split
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.spaces import Choice, Range
from coterie.training.config import RunContext
from coterie.tuning.candidates import Candidate, candidate

HERE = RunContext(device="cpu", precision="fp32")
SMALL: dict[str, Any] = {
    "model.hidden_dims": [12],
    "model.latent_dim": 6,
    "training.batch_size": 60,
    "training.epochs": 4,
}


def tiny_split() -> Split:
    config = SyntheticConfig(
        n_users=240, n_items=50, n_communities=4, n_niches=2, mean_history=10, n_pairs=0
    )
    data = synthetic(config, 0).interactions
    return strong_generalization(data, n_validation_users=50, n_test_users=50, rng=0)


def small(
    search: Mapping[str, Range | Choice] | None = None, name: str = "multi-vae", **fixed: Any
) -> Candidate:
    """A preset of small size; ``fixed`` with double underscores for dots."""
    given = {key.replace("__", "."): value for key, value in fixed.items()}
    return candidate(name, search=search, fixed={**SMALL, **given})
