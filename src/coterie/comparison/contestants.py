"""Who is compared: a VAE to train, a baseline to fit, or a trained model to load."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from pydantic import Field

from coterie.config import Config, merged
from coterie.data.parts import Split
from coterie.errors import ConfigError, DataError
from coterie.files import MANIFEST, sha256
from coterie.models.baselines import METHODS
from coterie.models.model import BaselineConfig
from coterie.recommender import Recommender
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import Observer, train

MOST_SEEDS = 2**32  # that every library takes


@dataclass(frozen=True)
class Trained:
    """What a contestant's training gave.

    Parameters
    ----------
    recommender
        To be tested.
    epochs, best_epoch
        Of a VAE; None where there are none, and ``best_epoch`` also without validation users.
    interrupted
        A signal came before training was over; there is nothing to test.
    stop_requested
        A signal came at all.
    """

    recommender: Recommender
    epochs: int | None = None
    best_epoch: int | None = None
    interrupted: bool = False
    stop_requested: bool = False


@dataclass(frozen=True)
class Setup:
    """How a contestant is trained, apart from what decides the result.

    Parameters
    ----------
    context
        Device and precision.
    folder
        Where training keeps checkpoints, and goes on from those it finds; None: nowhere.
    observer
        Told about steps and epochs.
    """

    context: RunContext
    folder: Path | None = None
    observer: Observer | None = None


class Contestant(Config, ABC):
    """One model to compare. JSON can hold it, because each run is a process that must be told."""

    name: str = Field(min_length=1, max_length=100)

    @property
    def key(self) -> str:
        """The name as part of a file's name, distinct for distinct names."""
        return quote(self.name, safe="+")

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common to be of one contestant, as JSON holds it."""
        return self.model_dump(mode="json", exclude={"name"})

    def refuse(self, split: Split, *, split_per_seed: bool) -> None:
        """Find out before the first run what would fail in it, or mean nothing."""

    @abstractmethod
    def train(self, split: Split, seed: int, setup: Setup) -> Trained:
        """Train on the split's training users, choose on its validation users, all by ``seed``."""


class VaeContestant(Contestant):
    """A VAE, trained by :func:`coterie.train`; the run's seed replaces the experiment's."""

    kind: Literal["vae"] = "vae"
    experiment: Experiment

    def settings(self) -> dict[str, Any]:
        """Kind and experiment, without the seed."""
        return self.model_dump(
            mode="json", exclude={"name": True, "experiment": {"training": {"seed"}}}
        )

    def train(self, split: Split, seed: int, setup: Setup) -> Trained:
        """Train; the epoch is chosen on the validation users if there are any."""
        seeded = {"training": {"seed": seed}}
        result = train(
            split.train,
            split.validation if split.validation.held_out.nnz else None,
            Experiment.read(merged(self.experiment.model_dump(), seeded)),
            context=setup.context,
            folder=setup.folder,
            resume=setup.folder is not None,
            observer=setup.observer,
        )
        return Trained(
            result.recommender,
            len(result.history),
            result.best_epoch,
            result.interrupted,
            result.stop_requested,
        )


class BaselineContestant(Contestant):
    """A baseline, fitted in one go; ``method`` is its name in the list of baselines."""

    kind: Literal["baseline"] = "baseline"
    method: str
    options: dict[str, Any] = Field(default_factory=dict)

    def config(self) -> BaselineConfig:
        """The method's settings; :class:`ConfigError` if one is wrong."""
        return METHODS[self.method].config.read(self.options)

    def settings(self) -> dict[str, Any]:
        """Kind, method and all of the method's settings but the seed, defaults included."""
        options = self.config().model_dump(mode="json", exclude={"seed"})
        return {"kind": self.kind, "method": self.method, "options": options}

    def train(self, split: Split, seed: int, setup: Setup) -> Trained:
        """Fit to the training users, without a look at the validation users."""
        config = self.config()
        if "seed" in type(config).model_fields:  # of methods that draw something
            config = type(config).read({**self.options, "seed": seed % MOST_SEEDS})
        return Trained(Recommender.fit(config, split.train))


class SavedContestant(Contestant):
    """A trained model's folder, which is only tested."""

    kind: Literal["saved"] = "saved"
    path: Path

    def settings(self) -> dict[str, Any]:
        """Kind and the hash of the manifest, which holds the hash of each file."""
        return {"kind": self.kind, "sha256": sha256(self.path / MANIFEST)}

    def refuse(self, split: Split, *, split_per_seed: bool) -> None:
        """Raise unless it was trained on what this split gives to train on, and on nothing else.

        That is told by how many users each item had in its training: as in the split's training
        part, or in all that test users had before what is held out.

        Raises
        ------
        ConfigError
            Each seed has a split of its own.
        DataError
            The items are others, or their numbers of users.
        """
        if split_per_seed:
            raise ConfigError(
                f"{self.name} is trained already, and each seed draws other users to test on: it "
                "may have been trained on them. Compare it on the split that it was trained on."
            )
        saved = Recommender.load(self.path, device="cpu")
        if saved.item_ids != split.train.item_ids:
            raise DataError(
                f"{self.name} knows {len(saved.item_ids)} items, and the split has "
                f"{split.train.n_items}, which are not the same ones in the same order. Compare "
                "it on the split that it was trained on."
            )
        allowed = (split.train, split.test.fold_in)
        if not any(np.array_equal(saved.item_counts, part.item_counts()) for part in allowed):
            raise DataError(
                f"{self.name} was trained on {saved.item_counts.sum():,} interactions, which are "
                f"not the {split.train.nnz:,} that this split gives to train on: it may have seen "
                "what is to be predicted. Compare it on the split that it was trained on."
            )

    def train(self, split: Split, seed: int, setup: Setup) -> Trained:
        """Load it."""
        return Trained(Recommender.load(self.path, device=setup.context.device))


AnyContestant = Annotated[
    VaeContestant | BaselineContestant | SavedContestant, Field(discriminator="kind")
]
"""For reading one from JSON."""
