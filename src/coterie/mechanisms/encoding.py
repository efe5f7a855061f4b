"""Posteriors of a sample of users, with clean or masked input."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE
from coterie.objectives.masking import mask

USERS_AT_ONCE = 1024


@torch.no_grad()
def encode(
    model: VAE,
    user_items: Interactions,
    users: np.ndarray,
    *,
    keep_probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Posterior:
    """Posteriors ``[len(users), K]`` on the CPU, in float32.

    Parameters
    ----------
    model
        Any VAE of coterie; a Multi-DAE gives point posteriors (``logvar`` None).
    user_items
        Histories over the model's items.
    users
        Internal indices of rows.
    keep_probability
        ρ: below 1 each history is masked once, with draws from ``generator`` (on the CPU).

    Raises
    ------
    ConfigError
        The histories' items are not the model's, or a mask has no generator.
    """
    if user_items.n_items != model.n_items:
        raise ConfigError(
            f"The histories have {user_items.n_items} items, the model {model.n_items}; take both "
            "from one split, or fold the histories in."
        )
    if keep_probability < 1 and generator is None:
        raise ConfigError("Masked input needs a generator for its masks.")
    device = model.decoder.table.device
    means, logvars = [], []
    for start in range(0, len(users), USERS_AT_ONCE):
        batch = user_batch(user_items, users[start : start + USERS_AT_ONCE])
        if generator is not None and keep_probability < 1:
            batch = mask(batch, keep_probability, generator)
        posterior = model.encode(batch.to(device))
        means.append(posterior.mu.float().cpu())
        if posterior.logvar is not None:
            logvars.append(posterior.logvar.float().cpu())
    empty = torch.empty(0, model.config.latent_dim)
    mu = torch.cat(means) if means else empty
    if model.config.variational:
        return Posterior(mu, torch.cat(logvars) if logvars else empty)
    return Posterior(mu, None)


@dataclass(frozen=True, eq=False)
class MaskedCodes:
    """Codes of N users over several masks.

    Parameters
    ----------
    mean
        float64 ``[N, K]``: mean of the posterior means.
    variance
        float64 ``[N]``: ``tr Var_b[μ(x ⊙ b)]``, unbiased.
    posterior_variance
        float64 ``[N]``: mean ``tr Σ``; 0 for point codes.
    """

    mean: Tensor
    variance: np.ndarray
    posterior_variance: np.ndarray


def across_masks(
    model: VAE,
    user_items: Interactions,
    users: np.ndarray,
    *,
    keep_probability: float,
    generator: torch.Generator,
    n_masks: int,
) -> MaskedCodes:
    """:func:`encode` under ``n_masks`` masks, at least 2, one after the other."""
    mean = torch.zeros(len(users), model.config.latent_dim, dtype=torch.float64)
    squares, trace = torch.zeros(2, len(users), dtype=torch.float64)
    for drawn in range(1, n_masks + 1):  # Welford: no cancellation, one code per user in memory
        posterior = encode(
            model, user_items, users, keep_probability=keep_probability, generator=generator
        )
        step = posterior.mu.double() - mean
        mean += step / drawn
        squares += (step * (posterior.mu.double() - mean)).sum(1)
        if posterior.logvar is not None:
            trace += posterior.logvar.double().exp().sum(1) / n_masks
    return MaskedCodes(mean, (squares / (n_masks - 1)).numpy(), trace.numpy())
