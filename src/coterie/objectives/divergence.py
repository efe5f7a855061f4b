"""Kullback–Leibler divergence of posteriors from the prior."""

import torch
from torch import Tensor

from coterie.models.posterior import Posterior


def kl_standard_normal(posterior: Posterior) -> Tensor:
    """``KL(N(μ, diag σ²) ‖ N(0, 1))`` per user, ``[B]``, in nats, summed over the K dimensions.

    Zero for a point posterior, which has no divergence term in Multi-DAE's objective.
    """
    if posterior.logvar is None:
        return torch.zeros_like(posterior.mu[:, 0])
    mu, logvar = posterior.mu, posterior.logvar
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
