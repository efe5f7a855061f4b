"""The training objective: multinomial likelihood, annealed β-KL and Personalized Item Alignment.

``L = E_b[ E_q ℓ(x, z) + β KL(q(z | x ⊙ b) ‖ p(z)) ] + λ_A E_b[ L_A ]``: SUM over items, MEAN
over the batch, in nats. The input is masked; targets and alignment use the whole history.
Source: arXiv 2511.06781, section 3; Liang et al., WWW 2018.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from coterie.config import Config
from coterie.data.batches import UserBatch
from coterie.errors import ConfigError
from coterie.models.tables import TableGradients
from coterie.models.vae import VAE
from coterie.objectives.alignment import Anchors, alignment, centroids
from coterie.objectives.divergence import kl_standard_normal
from coterie.objectives.masking import mask
from coterie.objectives.multinomial import (
    OutputWorkspace,
    fused_multinomial_nll,
    multinomial_nll,
)
from coterie.objectives.schedules import Schedule


class ObjectiveConfig(Config):
    """What training minimises."""

    keep_probability: float = Field(
        0.5, gt=0, le=1, description="ρ, the probability to KEEP an input item; 1 is clean input."
    )
    beta: Schedule = Field(
        Schedule(kind="linear", end=0.2, epochs=20), description="Weight β of the KL term."
    )
    alignment: Schedule = Field(
        Schedule(end=0.0), description="Weight λ_A of Personalized Item Alignment; 0 is without."
    )
    align_mean: bool = Field(True, description="PIA pulls the mean to the items' centroid.")
    shrink_variance: bool = Field(True, description="PIA shrinks the posterior's variance.")

    @property
    def aligned(self) -> bool:
        """Whether PIA is part of the objective: its weight is above 0 at some step."""
        weight = self.alignment
        return weight.end > 0 or (weight.kind != "constant" and weight.start > 0)

    @model_validator(mode="after")
    def _alignment_does_something(self) -> Self:
        if self.aligned and not (self.align_mean or self.shrink_variance):
            raise ConfigError(
                "Alignment has a weight, but align_mean and shrink_variance are both off, so that "
                "it does nothing; allow one of them, or set alignment.end to 0."
            )
        return self


@dataclass(frozen=True)
class LossTerms:
    """The terms of one batch, each a scalar tensor in nats per user, and their weights."""

    nll: Tensor
    kl: Tensor
    alignment: Tensor
    beta: float
    lambda_a: float

    @property
    def total(self) -> Tensor:
        """``nll + β · kl + λ_A · alignment``."""
        return self.nll + self.beta * self.kl + self.lambda_a * self.alignment

    def stacked(self) -> Tensor:
        """The three terms as one detached tensor ``[3]``: nll, kl, alignment."""
        return torch.stack([self.nll, self.kl, self.alignment]).detach()


class Objective(nn.Module):
    """The objective and what it owns: the anchors, if PIA is on.

    Parameters
    ----------
    config
        Weights, schedules and the mask.
    model
        Gives the sizes; it is not kept.
    """

    def __init__(self, config: ObjectiveConfig, model: VAE) -> None:
        super().__init__()
        self.config = config
        learns_anchors = config.aligned and config.align_mean
        self.anchors = Anchors(model.n_items, model.config.latent_dim) if learns_anchors else None

    def initialized(self, seed: int) -> Self:
        """Draw the anchors from ``seed``; returns the objective itself."""
        if self.anchors is not None:
            # A stream of its own: the model's weights are the same with and without PIA. Torch's
            # CPU generator uses the low 32 bits of a seed only, hence a hash and not an offset.
            own = int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1)[0])
            self.anchors.reset_parameters(torch.Generator().manual_seed(own))
        return self

    @property
    def tables(self) -> list[nn.Parameter]:
        """The parameters with one row per item."""
        return [] if self.anchors is None else [self.anchors.table]

    def forward(
        self,
        model: VAE,
        batch: UserBatch,
        *,
        step: int,
        steps_per_epoch: int,
        generator: torch.Generator,
        workspace: OutputWorkspace | None = None,
        gradients: TableGradients | None = None,
    ) -> LossTerms:
        """The loss terms of one batch of whole histories.

        ``workspace`` selects the fused likelihood; without it the plain form is used.
        """
        config = self.config
        low = workspace is not None and workspace.dtype != torch.float32
        with torch.autocast(batch.scale.device.type, torch.bfloat16, enabled=low):
            masked = mask(batch, config.keep_probability, generator)
            posterior = model.encoder(masked, gradients)
            hidden = model.decoder.hidden(posterior.sample(generator))
        if workspace is None:
            logits = torch.addmm(model.decoder.bias, hidden, model.decoder.table.T)
            nll = multinomial_nll(logits, batch).mean()
        else:
            nll = fused_multinomial_nll(hidden, model.decoder, batch, workspace, gradients)
        lambda_a = config.alignment.value(step, steps_per_epoch)
        aligned = nll.new_zeros(())
        if config.aligned:
            centroid, mean_square = torch.zeros_like(posterior.mu), torch.zeros_like(nll)
            if self.anchors is not None:
                centroid, mean_square = centroids(self.anchors.table, batch, gradients)
            aligned = alignment(
                posterior,
                centroid,
                mean_square,
                align_mean=config.align_mean,
                shrink_variance=config.shrink_variance,
            ).mean()
        return LossTerms(
            nll=nll,
            kl=kl_standard_normal(posterior).mean(),
            alignment=aligned,
            beta=config.beta.value(step, steps_per_epoch),
            lambda_a=lambda_a,
        )
