"""The training objective: multinomial likelihood, weighted KL and Personalized Item Alignment.

``L = E_b[ E_q ℓ(x, z) + w KL(q(z | x ⊙ b) ‖ p(z)) ] + λ_A E_b[ L_A ]``: SUM over items, MEAN
over the batch, in nats. The weight w is the annealed β, or γ n for a user with n items (RecVAE).
The input is masked; targets and alignment use the whole history.
Source: arXiv 2511.06781, section 3; Liang et al., WWW 2018; Shenbin et al., WSDM 2020.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from coterie.config import Config
from coterie.data.batches import Extra, UserBatch, extra_of
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.models.tables import TableGradients
from coterie.models.vae import VAE
from coterie.objectives.alignment import total_variance
from coterie.objectives.anchors import AnchorConfig, Anchors, popularity_weights
from coterie.objectives.divergence import kl_divergence
from coterie.objectives.masking import MaskConfig, draw_mask, popularity_keep
from coterie.objectives.multinomial import (
    OutputWorkspace,
    fused_multinomial_nll,
    multinomial_nll,
)
from coterie.objectives.schedules import Schedule

Part = Literal["all", "encoder", "decoder"]
"""What of the model a step moves; ``encoder`` is all but the decoder."""


class ObjectiveConfig(Config):
    """What training minimises."""

    keep_probability: float = Field(
        0.5, gt=0, le=1, description="ρ, the probability to KEEP an input item; 1 is clean input."
    )
    mask: MaskConfig = Field(MaskConfig(), description="Mask:")
    beta: Schedule | None = Field(
        Schedule(kind="linear", end=0.2, epochs=20),
        description="Weight β of the KL term; none where gamma is given.",
    )
    gamma: PositiveFloat | None = Field(
        None, description="In β's place: a user with n items has the weight γ·n (RecVAE)."
    )
    alignment: Schedule = Field(
        Schedule(end=0.0), description="Weight λ_A of Personalized Item Alignment; 0 is without."
    )
    align_mean: bool = Field(True, description="PIA pulls the mean to the items' centroid.")
    shrink_variance: bool = Field(True, description="PIA shrinks the posterior's variance.")
    anchors: AnchorConfig = Field(AnchorConfig(), description="Anchors:")

    @property
    def aligned(self) -> bool:
        """Whether PIA is part of the objective: its weight is above 0 at some step."""
        weight = self.alignment
        return weight.end > 0 or (weight.kind != "constant" and weight.start > 0)

    @property
    def beta_is_untouched(self) -> bool:
        """Whether β was left as it is, or is 0 throughout."""
        beta = self.beta
        nothing = beta is None or not (beta.start or beta.end)
        return nothing or beta == type(self).model_fields["beta"].default

    def weights(self, step: int, steps_per_epoch: int) -> dict[str, float]:
        """The weights at ``step``, by name: ``beta`` or ``gamma``, and ``lambda_a``."""
        lambda_a = self.alignment.value(step, steps_per_epoch)
        if self.beta is None:
            assert self.gamma is not None
            return {"gamma": self.gamma, "lambda_a": lambda_a}
        return {"beta": self.beta.value(step, steps_per_epoch), "lambda_a": lambda_a}

    @property
    def learns_anchors(self) -> bool:
        """Whether there are anchors: alignment is on and pulls the mean."""
        return self.aligned and self.align_mean

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What batches need beside the items."""
        needed: dict[Extra, bool] = {
            "values": self.learns_anchors and self.anchors.weighting == "rating",
            "timestamps": self.mask.kind == "time-block"
            or (self.learns_anchors and self.anchors.weighting == "recency"),
        }
        return tuple(name for name, asked in needed.items() if asked)

    def check(self, data: Interactions) -> None:
        """Raise :class:`DataError` if ``data`` lacks timestamps or ratings that are needed."""
        for name in self.extras:
            array = extra_of(data, name)
            if name == "values" and len(array) and not array.min() > 0:  # so that NaN fails too
                raise DataError(
                    "A weighting by rating needs ratings above 0, and the lowest is "
                    f"{array.min():g}; choose another objective.anchors.weighting."
                )

    @model_validator(mode="after")
    def _mask_can_keep_its_share(self) -> Self:
        self.mask.check(self.keep_probability)
        return self

    @model_validator(mode="after")
    def _anchors_are_used(self) -> Self:
        if self.aligned and not self.align_mean and self.anchors != AnchorConfig():
            raise ConfigError(
                "Without align_mean there are no anchors, so that the settings of anchors do "
                "nothing; leave them out, or allow align_mean."
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _gamma_takes_the_place_of_beta(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("gamma") is not None:
            return {"beta": None, **values}
        return values

    @model_validator(mode="after")
    def _one_weight_of_the_divergence(self) -> Self:
        if (self.beta is None) == (self.gamma is None):
            both = "both are given" if self.beta else "neither is given"
            raise ConfigError(f"The KL term has one weight, beta or gamma; {both}.")
        return self

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
    """The terms of one batch, each a scalar tensor in nats per user.

    ``kl`` is the mean divergence itself, ``weighted_kl`` what it adds to the loss: ``β · kl``, or
    the mean of ``γ n · kl`` over the users. A step of the decoder alone has no divergence and no
    alignment: they are 0.
    """

    nll: Tensor
    kl: Tensor
    alignment: Tensor
    weighted_kl: Tensor
    lambda_a: float

    @property
    def total(self) -> Tensor:
        """``nll + weighted_kl + λ_A · alignment``: what is minimised."""
        return self.nll + self.weighted_kl + self.lambda_a * self.alignment

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
        self.anchors = Anchors(config.anchors, model) if config.learns_anchors else None
        self._item_weights: Tensor | None = None
        self._item_keep: Tensor | None = None

    def initialized(self, seed: int) -> Self:
        """Draw the anchors from ``seed``; returns the objective itself."""
        if self.anchors is not None:
            # A stream of its own: the model's weights are the same with and without PIA. Torch's
            # CPU generator uses the low 32 bits of a seed only, hence a hash and not an offset.
            own = int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1)[0])
            self.anchors.reset_parameters(torch.Generator().manual_seed(own))
        return self

    def prepared(self, data: Interactions, device: torch.device) -> Self:
        """Take what the objective needs to know of all training users; returns itself.

        Raises
        ------
        DataError
            The data lacks timestamps or ratings that the settings need.
        """
        config = self.config
        config.check(data)
        if self.anchors is not None and config.anchors.weighting == "inverse-popularity":
            weights = popularity_weights(data.item_counts(), config.anchors.exponent)
            self._item_weights = torch.from_numpy(weights).to(device)
        if config.mask.kind == "popularity":
            rho, exponent = config.keep_probability, config.mask.exponent
            keep = popularity_keep(data.item_counts(), rho, exponent)
            self._item_keep = torch.from_numpy(keep).float().to(device)
        return self

    @property
    def tables(self) -> list[nn.Parameter]:
        """The parameters with one row per item that are not the model's."""
        return [] if self.anchors is None or self.anchors.table is None else [self.anchors.table]

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
        part: Part = "all",
    ) -> LossTerms:
        """The loss terms of one batch of whole histories.

        ``workspace`` selects the fused likelihood; without it the plain form is used. With
        ``part`` "decoder" the input is clean and only the likelihood is computed, for the decoder
        alone; whose gradients are not computed otherwise is up to the caller.
        """
        config = self.config
        # On a GPU the small products take less time than their casts, so that they stay in float32.
        low = workspace is not None and workspace.dtype != torch.float32
        low &= batch.scale.device.type == "cpu"
        precision = partial(torch.autocast, "cpu", torch.bfloat16, enabled=low)
        if part == "decoder":
            with precision():
                with torch.no_grad():
                    z = model.encoder(batch, generator=generator).sample(generator)
                hidden = model.decoder.hidden(z)
            nll = _likelihood(hidden, model, batch, workspace, gradients)
            nothing = torch.zeros_like(nll)
            return LossTerms(nll, nothing, nothing, nothing, lambda_a=0.0)
        with precision():
            masked = draw_mask(
                batch, config.mask, config.keep_probability, generator, self._item_keep
            )
            posterior = model.encoder(masked, gradients, generator)
            z = posterior.sample(generator)
            hidden = model.decoder.hidden(z)
        nll = _likelihood(hidden, model, batch, workspace, gradients)
        weights = config.weights(step, steps_per_epoch)
        aligned = nll.new_zeros(())
        if config.aligned:
            penalty = torch.zeros_like(posterior.mu[:, 0])
            if self.anchors is not None:
                penalty = penalty + self.anchors(
                    posterior.mu, model, batch, self._item_weights, gradients
                )
            if config.shrink_variance:
                penalty = penalty + total_variance(posterior)
            aligned = penalty.mean()
        with precision():
            kl = kl_divergence(model, posterior, z, batch)
        if config.gamma is None:
            weighted_kl = weights["beta"] * kl.mean()
        else:
            weighted_kl = (config.gamma * batch.lengths * kl).mean()
        return LossTerms(nll, kl.mean(), aligned, weighted_kl, weights["lambda_a"])


def _likelihood(
    hidden: Tensor,
    model: VAE,
    batch: UserBatch,
    workspace: OutputWorkspace | None,
    gradients: TableGradients | None,
) -> Tensor:
    """The mean negative log-likelihood, fused if there is a workspace."""
    if workspace is not None:
        return fused_multinomial_nll(hidden, model.decoder, batch, workspace, gradients)
    logits = torch.addmm(model.decoder.bias, hidden, model.decoder.table.T)
    return multinomial_nll(logits, batch).mean()
