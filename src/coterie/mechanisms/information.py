"""What the latent code knows: the two parts of the divergence, active units, posterior collapse.

Source: arXiv 2511.06781, on what β does to the geometry. The divergence splits exactly,
``E KL(q(z|x_h)‖p) = I(X_h; Z) + KL(q̄‖p)`` with the aggregated posterior ``q̄``: one part is what
the code tells about the user, the other how far all codes together are from the prior. Active units
after Burda et al., arXiv 1509.00519; both bounds of the mutual information after Poole et al.,
arXiv 1905.06922.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    NOMINAL_RATE,
    Budget,
    Measurement,
    SampleSize,
    choose,
    with_histories,
)
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE
from coterie.objectives.divergence import kl_standard_normal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACTIVE_VARIANCE = 0.01  # a dimension is active if Var_x(μ_k) is above it
SATURATION = 0.9  # of the limit log N; from here on the estimate mostly tells how large N was
FEW_TELLING = 0.1  # below this share of the dimensions the posterior has partly collapsed
LEAST_USERS = 10
CODES_AT_ONCE = 256  # rows of the N-wide blocks of log densities
INACTIVE = "#999999"


def standard_normal(z: Tensor) -> Tensor:
    """Log density of N(0, 1)^K at codes ``[B, K]``: ``[B]``, in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


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


@dataclass(frozen=True, eq=False)
class Information(Measurement):
    """The parts of ``E KL(q(z|x_h)‖p)``, in nats, and every dimension's share in them.

    Parameters
    ----------
    sample
        Users, each with one masked history.
    kl, kl_se
        Mean over users of the divergence from the prior, and its standard error.
    kl_sampled
        The same from draws of z: a check on ``kl``, which is in closed form where there is one.
    mutual_information, mutual_information_se
        ``I(X_h; Z)`` by the estimate that counts a user's own posterior in q̄: a LOWER bound in
        expectation, at most log N. The standard error is over users.
    mutual_information_upper
        The estimate without the user's own posterior, an upper bound in expectation; at most
        ``kl``, which bounds it too.
    marginal_kl, marginal_kl_se
        ``kl − mutual_information``, so an UPPER estimate of ``KL(q̄‖p)``.
    kl_per_dimension
        float64 ``[K]``: mean over users of the divergence from N(0, 1).
    mean_variance
        float64 ``[K]``: ``Var_x(μ_k)``.
    telling
        bool ``[K]``: see :func:`tells_users_apart`.
    aggregated_mean, aggregated_variance
        float64 ``[K]``: moments of q̄; those of the standard normal are 0 and 1.
    """

    name: ClassVar[str] = "information"
    title: ClassVar[str] = "Information in the code, and collapse"
    meaning: ClassVar[str] = (
        "The divergence from the prior is what β charges for. One part of it pays for information "
        "about the user, the other for codes that, taken together, do not follow the prior. A "
        "dimension whose mean hardly varies between users carries nothing: if many do, the "
        "posterior has collapsed, which too large a β causes."
    )
    method: ClassVar[str] = (
        "E KL(q(z|x_h)‖p) = I(X_h; Z) + KL(q̄‖p) (arXiv 2511.06781), with log q̄(z) ≈ "
        "log (1/N) Σ_j q(z|x_j) over the sampled users' masked histories, at codes drawn from each "
        "user's posterior. Counting a user's own posterior bounds the information from below (by "
        "log N at most), leaving it out bounds it from above (arXiv 1905.06922). Active units: "
        "Var_x(μ_k) > 0.01 (arXiv 1509.00519); collapse is judged by Var_x(μ_k) above 1 % of the "
        "posterior's own variance, which is the same where that is 1."
    )

    sample: SampleSize
    keep_probability: float
    kl: float
    kl_se: float
    kl_sampled: float
    mutual_information: float
    mutual_information_se: float
    mutual_information_upper: float
    marginal_kl: float
    marginal_kl_se: float
    kl_per_dimension: np.ndarray
    mean_variance: np.ndarray
    telling: np.ndarray
    aggregated_mean: np.ndarray
    aggregated_variance: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """Which dimensions are active, bool ``[K]``."""
        above: np.ndarray = self.mean_variance > ACTIVE_VARIANCE
        return above

    @property
    def limit(self) -> float:
        """Log N: more the estimate of the mutual information cannot show."""
        return math.log(self.sample.used)

    @property
    def saturated(self) -> bool:
        """Whether the mutual information is within a tenth of its limit."""
        return self.mutual_information > SATURATION * self.limit

    def figures(self) -> dict[str, float]:
        """Divergences in nats; counts of dimensions; moments of the aggregated posterior."""
        return {
            "kl": self.kl,
            "kl_se": self.kl_se,
            "kl_sampled": self.kl_sampled,
            "mutual_information": self.mutual_information,
            "mutual_information_se": self.mutual_information_se,
            "mutual_information_upper": self.mutual_information_upper,
            "mutual_information_limit": self.limit,
            "marginal_kl": self.marginal_kl,
            "marginal_kl_se": self.marginal_kl_se,
            "active_units": float(self.active.sum()),
            "active_share": float(self.active.mean()),
            "telling_units": float(self.telling.sum()),
            "latent_dim": float(len(self.active)),
            "aggregated_mean_rms": float(np.sqrt(np.mean(self.aggregated_mean**2))),
            "aggregated_variance": float(self.aggregated_variance.mean()),
        }

    def diagnosis(self) -> str:
        """Whether the posterior has collapsed, in one sentence."""
        telling, active, total = int(self.telling.sum()), int(self.active.sum()), len(self.active)
        if not telling:
            return (
                f"The posterior has collapsed: in none of the {total} dimensions do the users' "
                "means differ by more than a tenth of the noise, so the code does not tell users "
                "apart."
            )
        state = "has not collapsed"
        if telling < FEW_TELLING * total:
            state = "has partly collapsed"
        small = "" if active > 0.9 * telling else ", as the latent space is small"
        return (
            f"The posterior {state}: {telling} of {total} dimensions tell users apart; by the "
            f"fixed threshold (mean varying by more than {ACTIVE_VARIANCE}) {active} are "
            f"active{small}."
        )

    def sentence(self) -> str:
        """The diagnosis, the split of the divergence, and how q̄ compares with the prior."""
        least, most = ("at least ", "at most ") if self.saturated else ("about ", "about ")
        return (
            f"{self.diagnosis()} In this sample the divergence from the prior is {self.kl:.2f} ± "
            f"{self.kl_se:.2f} nats per user: {least}{self.mutual_information:.2f} of them are "
            f"information about the user, and {most}{self.marginal_kl:.2f} the distance of all "
            "codes together from the prior; the variance of all codes is "
            f"{self.aggregated_variance.mean():.2f} per dimension (the standard normal's is 1)."
        )

    def warnings(self) -> list[str]:
        """Saturation of the mutual information at log N."""
        if not self.saturated:
            return []
        return [
            f"The mutual information of {self.mutual_information:.2f} nats is at the limit of what "
            f"{self.sample.used:,} users can show (log N = {self.limit:.2f}): the true value lies "
            f"between it and {self.mutual_information_upper:.2f}, and the distance of the "
            f"aggregated posterior from the prior between "
            f"{max(self.kl - self.mutual_information_upper, 0):.2f} and {self.marginal_kl:.2f}."
        ]

    def to_frame(self) -> pl.DataFrame:
        """One row per dimension: divergence, variance of the mean, moments of q̄."""
        return pl.DataFrame(
            {
                "dimension": np.arange(len(self.active)),
                "kl": self.kl_per_dimension,
                "mean_variance": self.mean_variance,
                "active": self.active,
                "telling": self.telling,
                "aggregated_mean": self.aggregated_mean,
                "aggregated_variance": self.aggregated_variance,
            }
        )

    def plot(self) -> "Figure":
        """Divergence, variance of the mean, and moments of q̄, dimensions sorted by divergence."""
        figure, axes = new_figure(3, width=4.6)
        order = np.argsort(-self.kl_per_dimension, kind="stable")
        axes[0].set_ylabel("mean KL from N(0, 1) (nats)")
        self._dimensions(axes[0], self.kl_per_dimension[order], order)
        axes[1].set_ylabel("variance of the mean over users")
        self._dimensions(axes[1], np.maximum(self.mean_variance[order], 1e-6), order)
        axes[1].axhline(ACTIVE_VARIANCE, color=VERMILION, linestyle="--", label="active above 0.01")
        axes[1].set_yscale("log")
        low = max(float(self.mean_variance.min()), 1e-6)
        # room above the dots for the legend, on a logarithmic axis
        axes[1].set_ylim(low / 3, 50 * max(float(self.mean_variance.max()), ACTIVE_VARIANCE))
        ranks = np.arange(1, len(order) + 1)
        variance, mean = self.aggregated_variance[order], self.aggregated_mean[order]
        axes[2].plot(ranks, variance, ".", color=BLUE, label="variance (prior: 1)")
        axes[2].plot(ranks, mean, "x", color=VERMILION, markersize=4, label="mean (prior: 0)")
        for prior, color in ((1, BLUE), (0, VERMILION)):
            axes[2].axhline(prior, color=color, linestyle="--", linewidth=1)
        axes[2].set_ylabel("aggregated posterior")
        low, high = min(mean.min(), 0), max(variance.max(), 1)
        axes[2].set_ylim(low - 0.05 * (high - low), high + 0.35 * (high - low))
        for axis in axes:
            axis.set_xlabel("dimension, by divergence")
            axis.legend(loc="upper right")
        return figure

    def _dimensions(self, axis: "Axes", heights: np.ndarray, order: np.ndarray) -> None:
        ranks, active = np.arange(1, len(order) + 1), self.active[order]
        for which, color, name in ((active, BLUE, "active"), (~active, INACTIVE, "inactive")):
            if which.any():
                label = f"{name} ({int(which.sum())})"
                axis.plot(ranks[which], heights[which], ".", color=color, label=label)


def information(
    model: VAE,
    user_items: Interactions,
    *,
    keep_probability: float = 0.5,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_draws: int = 1,
    log_prior: Callable[[Tensor], Tensor] = standard_normal,
) -> Information:
    """Split the divergence from the prior, and look for collapse.

    Parameters
    ----------
    model
        A VAE; codes and densities are computed on the CPU, densities in float64.
    user_items
        Histories over the model's items; users without any are left out.
    keep_probability
        ρ of the masks on the input, in (0, 1]; 1 for clean input.
    generator
        Chooses users, masks and codes.
    budget
        Limits N; the cost is O(N² · K · ``n_draws``) in blocks.
    n_draws
        Codes per user.
    log_prior
        Log density of codes, float32 ``[B, K]`` to ``[B]``. The default is in closed form; any
        other (a mixture, a VampPrior) by Monte Carlo.

    Raises
    ------
    ConfigError
        The model has no posterior variance (Multi-DAE), or a setting is out of range.
    DataError
        Fewer than ten users with a history.
    """
    if not model.config.variational:
        raise ConfigError(
            "A denoising autoencoder's code is a point: it has no divergence from a prior to "
            "measure. Use a variational model, or coterie.mechanisms.information.mean_variance for "
            "its active units."
        )
    if not (0 < keep_probability <= 1 and n_draws >= 1):
        raise ConfigError(
            "Information needs a keep_probability in (0, 1] and n_draws of at least 1, got "
            f"{keep_probability} and {n_draws}."
        )
    available = with_histories(user_items)
    sample = _sample_size(budget, len(available), model.config.latent_dim, n_draws)
    users = choose(available, sample.used, generator)
    posterior = encode(
        model, user_items, users, keep_probability=keep_probability, generator=generator
    )
    return _measured(posterior, sample, keep_probability, generator, n_draws, log_prior)


def _sample_size(budget: Budget, available: int, latent_dim: int, n_draws: int) -> SampleSize:
    per_pair = n_draws * (
        8 * latent_dim + 100
    )  # a float64 product costs twice, and the exponential
    affordable = math.sqrt(budget.seconds * NOMINAL_RATE / per_pair)
    return budget.most(
        available,
        operations=per_pair * min(available, affordable),
        memory=80 * latent_dim + 24 * CODES_AT_ONCE,
        least=LEAST_USERS,
        unit="users",
    )


def _measured(
    posterior: Posterior,
    sample: SampleSize,
    keep_probability: float,
    generator: torch.Generator,
    n_draws: int,
    log_prior: Callable[[Tensor], Tensor],
) -> Information:
    assert posterior.logvar is not None
    mu, logvar = posterior.mu.double(), posterior.logvar.double()
    gains = torch.stack(
        [_gains(posterior, posterior.sample(generator), log_prior) for _ in range(n_draws)]
    ).mean(0)
    sampled, lower, upper = gains
    closed = log_prior is standard_normal
    kl = kl_standard_normal(Posterior(mu, logvar)) if closed else sampled

    def error(values: Tensor) -> float:
        return float(values.std() / len(values) ** 0.5)

    return Information(
        sample,
        keep_probability,
        kl=float(kl.mean()),
        kl_se=error(kl),
        kl_sampled=float(sampled.mean()),
        mutual_information=float(lower.mean()),
        mutual_information_se=error(lower),
        mutual_information_upper=max(float(min(upper.mean(), kl.mean())), float(lower.mean())),
        marginal_kl=float((kl - lower).mean()),
        marginal_kl_se=error(kl - lower),
        kl_per_dimension=(0.5 * (mu.square() + logvar.exp() - 1 - logvar)).mean(0).numpy(),
        mean_variance=mean_variance(posterior.mu).numpy(),
        telling=tells_users_apart(posterior).numpy(),
        aggregated_mean=mu.mean(0).numpy(),
        aggregated_variance=(logvar.exp().mean(0) + mu.var(0, correction=0)).numpy(),
    )


def _gains(posterior: Posterior, z: Tensor, log_prior: Callable[[Tensor], Tensor]) -> Tensor:
    """``log q(z_i|x_i)`` less the log density of p, of q̄, and of q̄ without user i: ``[3, N]``.

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
        parts.append(torch.stack([own - log_prior(codes).double(), own - mixture, own - without]))
    return torch.cat(parts, 1)
