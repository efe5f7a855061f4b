"""The posterior over a user's latent vector."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Posterior:
    """A diagonal Gaussian ``N(mu, diag exp(logvar))``, or a point mass where ``logvar`` is None.

    A hierarchical posterior ``q(z1 | x, z2) q(z2 | x)`` over ``z = [z1, z2]`` is such a Gaussian
    once z2 is fixed: at ``drawn`` in training; otherwise at its mean, so that nothing is random.

    Parameters
    ----------
    mu
        float32 ``[B, K]``; hierarchical: ``[mu1(z2), mu2]``, halves.
    logvar
        float32 ``[B, K]``, natural logarithm of the variance; None for a denoising autoencoder.
    drawn
        The z2 ``[B, K/2]`` that ``mu`` and ``logvar`` of z1 belong to, if one was drawn.
    """

    mu: Tensor
    logvar: Tensor | None
    drawn: Tensor | None = None

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised draw per user, ``[B, K]``; the mean itself for a point mass."""
        if self.logvar is None:
            return self.mu
        if self.drawn is None:
            return draw_normal(self.mu, self.logvar, generator)
        half = self.drawn.shape[1]
        lower = draw_normal(self.mu[:, :-half], self.logvar[:, :-half], generator)
        return torch.cat([lower, self.drawn], 1)

    def log_density(self, z: Tensor) -> Tensor:
        """``log q(z | x)`` per user, ``[B]``, in nats; ``z`` must hold ``drawn`` if there is one.

        Raises
        ------
        TypeError
            A point mass has no density.
        """
        if self.logvar is None:
            raise TypeError("A point posterior has no density.")
        return normal_log_density(z, self.mu, self.logvar).sum(1)


def draw_normal(mu: Tensor, logvar: Tensor, generator: torch.Generator | None) -> Tensor:
    """A reparameterised draw from ``N(mu, exp(logvar))``."""
    noise = torch.empty_like(mu).normal_(generator=generator)
    return torch.addcmul(mu, noise, torch.exp(0.5 * logvar))


def normal_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """``log N(z; mu, exp(logvar))`` per element, in nats."""
    scaled = (z - mu).square() * torch.exp(-logvar)
    return -0.5 * (scaled + logvar + math.log(2 * math.pi))
