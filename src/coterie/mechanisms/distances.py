"""Distances between posteriors, and the bounds of Wasserstein distances (Lemma 2.4).

For diagonal Gaussians ``‖μ_u−μ_v‖ ≤ W1 ≤ W2 = sqrt(‖μ_u−μ_v‖² + ‖σ_u−σ_v‖²)``, in latent units: W2
is the Euclidean distance of the points ``[μ, σ]``. A point posterior is a Gaussian with σ = 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.errors import ConfigError, DataError, MissingExtraError
from coterie.models.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Bracket:
    """Bounds of W1, each ``[P]``: ``lower`` ‖μ_u−μ_v‖, ``upper`` W2."""

    lower: Tensor
    upper: Tensor


def deviations(posterior: Posterior) -> Tensor:
    """σ ``[B, K]``: zeros for a point posterior."""
    if posterior.logvar is None:
        return torch.zeros_like(posterior.mu)
    return torch.exp(0.5 * posterior.logvar)


def pick(posterior: Posterior, rows: np.ndarray | Tensor) -> Posterior:
    """The posteriors of the given rows, ``[len(rows), K]``."""
    logvar = posterior.logvar
    return Posterior(posterior.mu[rows], None if logvar is None else logvar[rows])


def w1_bracket(a: Posterior, b: Posterior) -> Bracket:
    """Bounds of W1 between row p of ``a`` and row p of ``b``, both ``[P, K]``; arXiv 2511.06781.

    Raises
    ------
    DataError
        The two differ in shape.
    """
    if a.mu.shape != b.mu.shape:
        raise DataError(
            f"Distances are taken row by row, between posteriors of one shape [P, K]; got "
            f"{list(a.mu.shape)} and {list(b.mu.shape)}."
        )
    lower = (a.mu - b.mu).norm(dim=1)
    return Bracket(lower, torch.hypot(lower, (deviations(a) - deviations(b)).norm(dim=1)))


def w2(a: Posterior, b: Posterior) -> Tensor:
    """W2 between row p of ``a`` and row p of ``b``, ``[P]``, in latent units."""
    return w1_bracket(a, b).upper


def w1_transport(
    posterior: Posterior, pairs: np.ndarray, n_draws: int, generator: torch.Generator
) -> Tensor:
    """Optimal-transport estimates of W1 for pairs of rows, float64 ``[P]``.

    The exact W1 between ``n_draws`` points of each posterior. Between independent draws it would
    be far too large in many dimensions, even for equal posteriors. Both posteriors therefore share
    their noise, ``μ_u + σ_u∘ε`` and ``μ_v + σ_v∘ε``, and ε comes in pairs ±ε (our derivation):
    the expectation of the estimate lies between W1 and ``E‖Δμ + Δσ∘ε‖ ≤ W2``, so the bias for
    finite samples is at most the width of the bracket; and no estimate is below ``‖Δμ‖``.

    Parameters
    ----------
    posterior
        ``[U, K]``.
    pairs
        int64 ``[P, 2]``, rows of ``posterior``.
    n_draws
        Even, at least 2. Takes ``n_draws³`` time per pair.
    generator
        For ε, new for every pair.

    Raises
    ------
    ConfigError
        ``n_draws`` is odd or below 2.
    MissingExtraError
        POT is not installed.
    """
    if n_draws < 2 or n_draws % 2:
        raise ConfigError(f"Transport needs an even number of draws, at least 2; got {n_draws}.")
    try:
        import ot
    except ImportError as error:
        raise MissingExtraError(
            "Optimal transport needs POT: pip install 'coterie[mechanisms]'."
        ) from error
    mu, sigma = posterior.mu.double().cpu(), deviations(posterior).double().cpu()
    estimates = torch.empty(len(pairs), dtype=torch.float64)
    for at, (u, v) in enumerate(pairs):
        half = torch.randn(n_draws // 2, mu.shape[1], generator=generator, dtype=torch.float64)
        noise = torch.cat([half, -half])
        costs = torch.cdist(mu[u] + sigma[u] * noise, mu[v] + sigma[v] * noise)
        estimates[at] = float(ot.emd2([], [], costs.numpy()))
    return estimates
