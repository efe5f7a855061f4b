"""The variational (or denoising) autoencoder for implicit feedback."""

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.config import ModelConfig
from coterie.models.decoders import MlpDecoder
from coterie.models.encoders import DenselyConnectedEncoder, MlpEncoder
from coterie.models.hierarchical import HierarchicalEncoder
from coterie.models.layers import fan_in_uniform, he_normal, xavier_normal
from coterie.models.model import Model, Similarity
from coterie.models.posterior import Posterior
from coterie.models.priors import (
    CompositePrior,
    Encoder,
    FlatEncoder,
    HierarchicalVampPrior,
    Prior,
    StandardNormal,
    VampPrior,
)

__all__ = ["VAE", "ModelConfig"]

DECODER_DRAWS = {"mlp": xavier_normal, "densely-connected": fan_in_uniform, "gated": he_normal}


class VAE(Model):
    """Encoder, decoder and prior; no loss, no input/output, no loop.

    Parameters
    ----------
    config
        The architecture.
    n_items
        I, the size of the catalogue.

    Attributes
    ----------
    encoder, decoder
        Networks, each with an item ``table`` and a ``bias``.
    prior
        None for a denoising autoencoder.
    """

    config: ModelConfig
    similarity: ClassVar[Similarity | None] = "decoder"

    def __init__(self, config: ModelConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.encoder = _encoder(config, n_items)
        self.decoder = MlpDecoder(
            config.latent_dim,
            config.decoder_widths,
            n_items,
            gated=config.hierarchical,
            draw=DECODER_DRAWS[config.encoder],
        )
        self.prior = _prior(config, n_items)

    def initialized(self, seed: int) -> Self:
        """Draw all weights from ``seed``; returns the model itself."""
        if seed >> 32:  # torch's CPU generator uses the low 32 bits of a seed only
            seed = int(np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        self.encoder.reset_parameters(generator)
        self.decoder.reset_parameters(generator)
        if self.prior is not None:
            self.prior.reset_parameters(generator)
        return self

    def encode(self, batch: UserBatch) -> Posterior:
        """Posterior of each user's history, ``[B, K]``; nothing is drawn.

        Of a hierarchical one: ``q(z1 | x, z2 = mu2) q(z2 | x)``, a diagonal Gaussian too.
        """
        posterior: Posterior = self.encoder(batch)
        return posterior

    def forward(self, batch: UserBatch) -> Tensor:
        """Logits ``[B, I]`` decoded from the posterior mean: what ranking uses."""
        logits: Tensor = self.decoder(self.encode(batch).mu)
        return logits

    def item_table(self) -> Tensor:
        """The decoder's output weights, ``[I, H]``."""
        return self.decoder.table

    def log_prior(self, z: Tensor, batch: UserBatch) -> Tensor:
        """``log p(z)`` per user, ``[B]``, in nats.

        Parameters
        ----------
        z
            ``[B, K]``.
        batch
            The users' CLEAN histories, on which the composite prior depends; no other does.

        Raises
        ------
        TypeError
            A denoising autoencoder has no prior.
        """
        if self.prior is None:
            raise TypeError("A denoising autoencoder has no prior.")
        return self.prior.log_density(z, self.encoder, batch)

    def refresh_snapshot(self) -> None:
        """Copy the encoder into the composite prior; nothing to do for other priors."""
        if isinstance(self.prior, CompositePrior):
            self.prior.refresh(self.encoder)

    @property
    def tables(self) -> list[nn.Parameter]:
        """The parameters with one row per item that training moves."""
        return [self.encoder.table, self.decoder.table]


def _encoder(config: ModelConfig, n_items: int) -> Encoder:
    if config.hierarchical:
        return HierarchicalEncoder(n_items, config.hidden_dims, config.latent_dim)
    return _flat_encoder(config, n_items)


def _flat_encoder(config: ModelConfig, n_items: int) -> FlatEncoder:
    kind: type[FlatEncoder] = MlpEncoder if config.encoder == "mlp" else DenselyConnectedEncoder
    return kind(n_items, config.hidden_dims, config.latent_dim, variational=config.variational)


def _prior(config: ModelConfig, n_items: int) -> Prior | None:
    settings = config.prior
    if settings.kind == "none":
        return None
    if settings.kind == "standard-normal":
        return StandardNormal()
    if settings.kind == "composite":
        return CompositePrior(settings, _flat_encoder(config, n_items))
    width = (config.hidden_dims or (2 * config.latent_dim,))[0]
    if settings.kind == "vamp":
        return VampPrior(settings.n_pseudo_inputs, width, n_items)
    vamp = VampPrior(settings.n_pseudo_inputs, 2 * width, n_items)
    return HierarchicalVampPrior(vamp, config.hidden_dims, config.latent_dim)
