"""Dimensions of the code that tell users apart (Burda et al., arXiv 1509.00519)."""

from torch import Tensor

from coterie.models.posterior import Posterior

ACTIVE_VARIANCE = 0.01  # a dimension is active if Var_x(μ_k) is above it


def mean_variance(mu: Tensor) -> Tensor:
    """``Var_x(μ_k)`` of posterior means ``[N, K]`` over the users: ``[K]``; also for point codes.

    Dimension k is an *active unit* if it is above ``ACTIVE_VARIANCE`` (arXiv 1509.00519).
    """
    return mu.double().var(0)


def tells_users_apart(posterior: Posterior) -> Tensor:
    """Dimensions whose means vary by more than 1 % of the posterior's own variance: bool ``[K]``.

    Where the posterior keeps the prior's variance of 1 these are the active units. Alignment makes
    the whole latent space smaller, means and variances alike; there a fixed threshold finds few
    active units in a code that tells users apart as well as ever. Point codes have the fixed one.
    """
    noise = 1.0 if posterior.logvar is None else posterior.logvar.double().exp().mean(0)
    apart: Tensor = mean_variance(posterior.mu) > ACTIVE_VARIANCE * noise
    return apart
