"""Kullback–Leibler divergence of posteriors from the prior: in closed form where there is one."""

import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.models.posterior import Posterior
from coterie.models.priors import HierarchicalVampPrior, StandardNormal
from coterie.models.vae import VAE


def kl_divergence(model: VAE, posterior: Posterior, z: Tensor, batch: UserBatch) -> Tensor:
    """``KL(q(z | x ⊙ b) ‖ p(z))`` per user, ``[B]``, in nats.

    Closed form for the standard normal prior, and for ``KL(q(z1 | x, z2) ‖ p(z1 | z2))`` of a
    hierarchical one; else the unbiased estimate ``log q(z) − log p(z)`` at the drawn code, which
    may be negative. Zero for a point posterior, which has no divergence term in Multi-DAE's
    objective.

    Parameters
    ----------
    model
        Its prior; a VampPrior's components come from its encoder.
    posterior
        Of the MASKED histories, from which ``z`` was drawn.
    z
        ``[B, K]``.
    batch
        The CLEAN histories: RecVAE's snapshot encoder sees them.
    """
    prior = model.prior
    if prior is None:
        return torch.zeros_like(posterior.mu[:, 0])
    if isinstance(prior, StandardNormal):
        return kl_standard_normal(posterior)
    if not isinstance(prior, HierarchicalVampPrior):
        return posterior.log_density(z) - prior.log_density(z, model.encoder, batch)
    assert posterior.logvar is not None
    (mu1, mu2), (logvar1, logvar2) = posterior.mu.chunk(2, 1), posterior.logvar.chunk(2, 1)
    z2 = z.chunk(2, 1)[1]
    lower = kl_normals(Posterior(mu1, logvar1), prior.conditional(z2))
    upper = Posterior(mu2, logvar2).log_density(z2)
    return lower + upper - prior.vamp.log_density(z2, model.encoder, batch)


def kl_standard_normal(posterior: Posterior) -> Tensor:
    """``KL(N(μ, diag σ²) ‖ N(0, 1))`` per user, ``[B]``, in nats, summed over the K dimensions.

    Zero for a point posterior.
    """
    if posterior.logvar is None:
        return torch.zeros_like(posterior.mu[:, 0])
    mu, logvar = posterior.mu, posterior.logvar
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def kl_normals(one: Posterior, other: Posterior) -> Tensor:
    """``KL(one ‖ other)`` of diagonal Gaussians, row by row: ``[B]``, in nats."""
    assert one.logvar is not None
    assert other.logvar is not None
    ratio = one.logvar - other.logvar
    shift = (one.mu - other.mu).square() * torch.exp(-other.logvar)
    return 0.5 * (shift + ratio.exp() - 1 - ratio).sum(1)
