"""The posterior over a user's latent vector."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Posterior:
    """A diagonal Gaussian ``N(mu, diag exp(logvar))``, or a point mass where ``logvar`` is None.

    Parameters
    ----------
    mu
        float32 ``[B, K]``.
    logvar
        float32 ``[B, K]``, natural logarithm of the variance; None for a denoising autoencoder.
    """

    mu: Tensor
    logvar: Tensor | None

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised draw per user, ``[B, K]``; the mean itself for a point mass."""
        if self.logvar is None:
            return self.mu
        noise = torch.empty_like(self.mu).normal_(generator=generator)
        return torch.addcmul(self.mu, noise, torch.exp(0.5 * self.logvar))
