"""The variational (or denoising) autoencoder for implicit feedback, and its configuration."""

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from coterie.config import Config
from coterie.data.batches import UserBatch
from coterie.models.decoders import MlpDecoder
from coterie.models.encoders import MlpEncoder
from coterie.models.posterior import Posterior


class ModelConfig(Config):
    """Architecture of Multi-VAE and Multi-DAE (Liang et al., WWW 2018)."""

    name: Literal["multi-vae", "multi-dae"] = Field(
        "multi-vae", description="multi-vae: Gaussian posterior; multi-dae: point code."
    )
    hidden_dims: tuple[PositiveInt, ...] = Field(
        (600,), description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    latent_dim: PositiveInt = Field(200, description="K, exactly the size of z.")

    @property
    def variational(self) -> bool:
        """Whether the posterior is a Gaussian."""
        return self.name == "multi-vae"


class VAE(nn.Module):
    """Encoder and decoder; no loss, no input/output, no loop.

    Parameters
    ----------
    config
        The architecture.
    n_items
        I, the size of the catalogue.
    """

    def __init__(self, config: ModelConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        dims = config.hidden_dims
        self.encoder = MlpEncoder(n_items, dims, config.latent_dim, variational=config.variational)
        self.decoder = MlpDecoder(config.latent_dim, dims[::-1], n_items)

    def initialized(self, seed: int) -> Self:
        """Draw all weights from ``seed``; returns the model itself."""
        if seed >> 32:  # torch's CPU generator uses the low 32 bits of a seed only
            seed = int(np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        self.encoder.reset_parameters(generator)
        self.decoder.reset_parameters(generator)
        return self

    def encode(self, batch: UserBatch) -> Posterior:
        """Posterior of each user's history, ``[B, K]``."""
        posterior: Posterior = self.encoder(batch)
        return posterior

    def forward(self, batch: UserBatch) -> Tensor:
        """Logits ``[B, I]`` decoded from the posterior mean: what ranking uses."""
        logits: Tensor = self.decoder(self.encode(batch).mu)
        return logits

    @property
    def tables(self) -> list[nn.Parameter]:
        """The parameters with one row per item."""
        return [self.encoder.table, self.decoder.table]
