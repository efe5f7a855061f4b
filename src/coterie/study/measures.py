"""The mechanisms of one run's model, on users and masks that are the same for all settings."""

from typing import Any

import torch

from coterie.data.interactions import Interactions
from coterie.mechanisms.diagnose import diagnose
from coterie.mechanisms.measurement import Budget, choose, with_histories
from coterie.recommender import Recommender
from coterie.study.settings import StudyConfig


def sample(train_data: Interactions, config: StudyConfig) -> Interactions:
    """The training users to measure on: the same for all settings that train on this data."""
    generator = torch.Generator().manual_seed(config.measured_seed)
    users = choose(with_histories(train_data), config.measured_users, generator)
    return train_data.rows(users)


def measure(
    recommender: Recommender, users: Interactions, config: StudyConfig
) -> dict[str, dict[str, Any]]:
    """Each measure's figures, sentence, warnings and sample; or why it could not be taken.

    Every setting is measured with the same masks at ``config.measured_rho``, whatever it was
    trained with.
    """
    diagnosis = diagnose(
        recommender,
        users,
        seed=config.measured_seed,
        budget=Budget(seconds=config.budget),
        keep_probability=config.measured_rho,
    )
    found = {name: one.to_dict() for name, one in diagnosis.measurements.items()}
    return found | {name: {"skipped": why} for name, why in diagnosis.skipped.items()}
