"""Densities of drawn codes: their own posterior's, all posteriors' together, and the prior's."""

import math

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import user_batch
from coterie.data.interactions import Interactions
from coterie.mechanisms.encoding import USERS_AT_ONCE
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

CODES_AT_ONCE = 256  # rows of the N-wide blocks of log densities


def standard_normal(z: Tensor) -> Tensor:
    """Log density of N(0, 1)^K at codes ``[B, K]``: ``[B]``, in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


@torch.no_grad()
def log_prior(model: VAE, user_items: Interactions, users: np.ndarray, z: Tensor) -> Tensor:
    """Log density of the model's own prior at a code of each user, float64 ``[N]``, in nats.

    Parameters
    ----------
    model
        A variational one.
    user_items, users
        The users' clean histories: RecVAE's prior depends on them.
    z
        ``[N, K]``.
    """
    device, parts = model.decoder.table.device, []
    for start in range(0, len(users), USERS_AT_ONCE):
        block = slice(start, start + USERS_AT_ONCE)
        batch = user_batch(user_items, users[block]).to(device)
        parts.append(model.log_prior(z[block].to(device), batch).double().cpu())
    return torch.cat(parts)


def log_densities(posterior: Posterior, z: Tensor) -> Tensor:
    """Log densities at each user's code: of q(z|x_i), of q̄, and of q̄ without user i: ``[3, N]``.

    ``−½ Σ_k (z − μ)²/σ²`` is expanded, so that a block of densities ``[B, N]`` is one product; in
    float64, because the terms of the expansion cancel.
    """
    assert posterior.logvar is not None
    mu, logvar, n = posterior.mu.double(), posterior.logvar.double(), len(z)
    precision = torch.exp(-logvar)
    coefficients = torch.cat([-0.5 * precision, mu * precision], 1).T  # [2K, N]
    constant = -0.5 * (mu.square() * precision + logvar + math.log(2 * math.pi)).sum(1)
    parts = []
    for start in range(0, n, CODES_AT_ONCE):
        codes = z[start : start + CODES_AT_ONCE]
        wide = codes.double()
        densities = torch.addmm(constant, torch.cat([wide.square(), wide], 1), coefficients)
        diagonal = torch.arange(len(codes)), torch.arange(start, start + len(codes))
        own = densities[diagonal]
        densities[diagonal] = -math.inf
        others = torch.logsumexp(densities, 1)
        mixture = torch.logaddexp(others, own) - math.log(n)
        without = others - math.log(n - 1)
        parts.append(torch.stack([own, mixture, without]))
    return torch.cat(parts, 1)
