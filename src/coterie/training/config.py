"""Settings of training (``TrainingConfig``) and where it runs (``RunContext``)."""

import math
import re
from typing import Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from coterie.config import HIGHEST_SEED, Config
from coterie.devices import has_bf16_units, pick_device
from coterie.errors import ConfigError
from coterie.evaluation.metrics import PER_USER
from coterie.models.config import ModelConfig
from coterie.objectives.elbo import ObjectiveConfig, Part
from coterie.objectives.implicit_slim import ImplicitSlimConfig
from coterie.objectives.schedules import RateSchedule


class TrainingConfig(Config):
    """Hyper-parameters of the training loop."""

    epochs: PositiveInt = Field(100, description="Most epochs to train.")
    batch_size: PositiveInt = Field(500, description="Users per step.")
    learning_rate: PositiveFloat = Field(1e-3, description="Adam's step size.")
    learning_rate_schedule: RateSchedule = Field(
        RateSchedule(), description="Factor of the step size."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay; 0 is Adam.")
    clip_norm: PositiveFloat | None = Field(None, description="Largest global gradient norm.")
    metric: str = Field("ndcg@100", description="Validation metric that picks the best epoch.")
    patience: PositiveInt | None = Field(
        10, description="Evaluations without improvement before training stops; none: never."
    )
    evaluate_every: PositiveInt = Field(
        1, description="Epochs between validations; sets of epochs where parts alternate."
    )
    encoder_epochs: int = Field(
        0, ge=0, description="Alternate: epochs of a set that move all but the decoder (RecVAE)."
    )
    decoder_epochs: int = Field(
        0, ge=0, description="Alternate: epochs of a set, after them, that move the decoder alone."
    )
    implicit_slim: ImplicitSlimConfig = Field(ImplicitSlimConfig(), description="ImplicitSLIM:")
    seed: int = Field(
        0, ge=0, le=HIGHEST_SEED, description="Determines weights, order, masks and noise."
    )

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        name, _, cut = metric.partition("@")
        if name not in PER_USER or not re.fullmatch("[1-9][0-9]{0,4}", cut):
            raise ValueError(
                f"a metric reads name@cut with a name of {', '.join(PER_USER)} and a cut of 1 to "
                "99999 without leading zeros"
            )
        return metric

    @model_validator(mode="after")
    def _sets_are_whole(self) -> Self:
        if (self.encoder_epochs == 0) != (self.decoder_epochs == 0):
            raise ConfigError(
                "Alternating needs encoder_epochs and decoder_epochs above 0, or both 0 to move "
                f"all parts at once; got {self.encoder_epochs} and {self.decoder_epochs}."
            )
        if self.epochs % self.epochs_per_set:
            raise ConfigError(
                f"A set has {self.encoder_epochs} + {self.decoder_epochs} epochs, and epochs must "
                f"be a multiple of {self.epochs_per_set}; got {self.epochs}."
            )
        return self

    @model_validator(mode="after")
    def _every_epoch_learns(self) -> Self:
        if self.epochs > self.rate_lasts:
            raise ConfigError(
                f"The learning rate is 0 after {self.rate_lasts:g} of {self.epochs} epochs, so "
                "that the rest would learn nothing. Train no more than that, or begin a new run "
                "whose learning_rate_schedule has more epochs."
            )
        return self

    @property
    def rate_lasts(self) -> float:
        """Epochs until the learning rate is 0; infinite if it never is."""
        schedule = self.learning_rate_schedule
        return schedule.epochs if schedule.end == 0 else math.inf

    @property
    def epochs_per_set(self) -> int:
        """Epochs until validation makes sense: 1 unless parts alternate."""
        return max(self.encoder_epochs + self.decoder_epochs, 1)

    def part(self, epoch: int) -> Part:
        """What the given epoch (0 for the first) moves."""
        if self.encoder_epochs == 0:
            return "all"
        return "encoder" if epoch % self.epochs_per_set < self.encoder_epochs else "decoder"

    def refreshes_snapshot(self, epoch: int) -> bool:
        """Whether the given epoch (0 for the first) is the last of its set to move the encoder."""
        return epoch % self.epochs_per_set == max(self.encoder_epochs - 1, 0)

    def validates(self, epoch: int) -> bool:
        """Whether there is a validation after the given epoch (0 for the first)."""
        done = epoch + 1
        return done % (self.evaluate_every * self.epochs_per_set) == 0 or done == self.epochs


class Experiment(Config):
    """Everything that decides what is learned; a checkpoint belongs to exactly one of these."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _objective_suits_the_model(self) -> Self:
        objective = self.objective
        if objective.aligned and not objective.align_mean and not self.model.variational:
            raise ConfigError(
                f"{self.model.name} has a point posterior without a variance, so that alignment "
                "with align_mean=false does nothing; allow align_mean, or set alignment.end to 0."
            )
        if objective.gamma is not None and not self.model.variational:
            raise ConfigError(
                f"{self.model.name} has a point code and no KL term for gamma to weigh; leave "
                "gamma out."
            )
        if not self.model.variational and not objective.beta_is_untouched:
            raise ConfigError(
                f"{self.model.name} has a point code and no KL term for beta to weigh; leave "
                "beta out."
            )
        if objective.learns_anchors:
            objective.anchors.check(self.model.latent_dim)
        return self


class RunContext(Config):
    """Where and how precisely training runs."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Processor.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Of the large products; weights and sums are always float32."
    )

    checkpoint_minutes: PositiveFloat = Field(
        10.0, description="Longest time between checkpoints within an epoch."
    )

    def torch_device(self) -> torch.device:
        """The device, chosen if ``auto``; :class:`ConfigError` if it is not there."""
        return pick_device(self.device)

    def torch_dtype(self) -> torch.dtype:
        """The precision of the large products, chosen by the processor's units if ``auto``."""
        if self.precision != "auto":
            return torch.bfloat16 if self.precision == "bf16" else torch.float32
        return torch.bfloat16 if has_bf16_units(self.torch_device()) else torch.float32
