"""What the latent code knows: the two parts of the divergence, active units, posterior collapse.

Source: arXiv 2511.06781, on what β does to the geometry. The divergence splits exactly,
``E KL(q(z|x_h)‖p) = I(X_h; Z) + KL(q̄‖p)`` with the aggregated posterior ``q̄``: one part is what
the code tells about the user, the other how far all codes together are from the prior. Active units
after Burda et al., arXiv 1509.00519; both bounds of the mutual information after Poole et al.,
arXiv 1905.06922.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.active_units import ACTIVE_VARIANCE, mean_variance, tells_users_apart
from coterie.mechanisms.densities import CODES_AT_ONCE, log_densities, log_prior, standard_normal
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    NOMINAL_RATE,
    Budget,
    Measurement,
    SampleSize,
    choose,
    of_model,
    with_histories,
)
from coterie.mechanisms.numbers import number, uncertain
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.models.posterior import Posterior
from coterie.models.priors import CompositePrior, Prior, StandardNormal
from coterie.models.vae import VAE
from coterie.objectives.divergence import kl_standard_normal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SATURATION = 0.9  # of the limit log N; from here on the estimate mostly tells how large N was
FEW_TELLING = 0.1  # below this share of the dimensions the posterior has partly collapsed
LEAST_USERS = 10
INACTIVE = "#999999"


@dataclass(frozen=True, eq=False)
class Information(Measurement):
    """The parts of ``E KL(q(z|x_h)‖p)``, in nats, and every dimension's share in them.

    Parameters
    ----------
    sample
        Users, each with one masked history.
    fixed_prior
        Whether the prior is the same for all users. RecVAE's composite one follows each user's
        own history, so that no distance of all codes together from it exists: there everything
        but ``prior_kl`` is about N(0, 1), one of its parts.
    kl, kl_se
        Mean over users of the divergence from the prior, and its standard error.
    kl_sampled
        The same from draws of z: a check on ``kl``, which is in closed form where there is one.
    prior_kl, prior_kl_se
        The same from the model's own prior, which is another only if ``fixed_prior`` is false.
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
        "E KL(q(z|x_h)‖p) = I(X_h; Z) + KL(q̄‖p) (arXiv 2511.06781), for the model's own prior p "
        "(in closed form if it is N(0, 1), else at drawn codes); if that follows the user's "
        "history (RecVAE), for N(0, 1). log q̄(z) ≈ "
        "log (1/N) Σ_j q(z|x_j) over the sampled users' masked histories, at codes drawn from each "
        "user's posterior. Counting a user's own posterior bounds the information from below (by "
        "log N at most), leaving it out bounds it from above (arXiv 1905.06922). Active units: "
        "Var_x(μ_k) > 0.01 (arXiv 1509.00519); collapse is judged by Var_x(μ_k) above 1 % of the "
        "posterior's own variance, which is the same where that is 1."
    )

    headline: ClassVar[tuple[str, ...]] = (
        "kl",
        "mutual_information",
        "mutual_information_upper",
        "marginal_kl",
        "active_units",
        "telling_units",
        "latent_dim",
        "aggregated_variance",
    )
    sample: SampleSize
    keep_probability: float
    fixed_prior: bool
    kl: float
    kl_se: float
    kl_sampled: float
    prior_kl: float
    prior_kl_se: float
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
            "prior_kl": self.prior_kl,
            "prior_kl_se": self.prior_kl_se,
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
        small = "" if active > 0.9 * telling else ", as the codes vary little"
        return (
            f"The posterior {state}: {telling} of {total} dimensions tell users apart; by the "
            f"fixed threshold (mean varying by more than {ACTIVE_VARIANCE}) {active} are "
            f"active{small}."
        )

    def sentence(self) -> str:
        """The diagnosis, the split of the divergence, and how q̄ compares with the prior."""
        least, most = ("at least ", "at most ") if self.saturated else ("about ", "about ")
        known = number(self.mutual_information)
        if not self.saturated:
            known = uncertain(self.mutual_information, self.mutual_information_se)
        text = (
            f"{self.diagnosis()} In this sample the divergence from "
            f"{'the prior' if self.fixed_prior else 'N(0, 1)'} is "
            f"{uncertain(self.kl, self.kl_se)} nats per user: "
            f"{least}{known} of them are "
            "information about the user, and "
            f"{most}{uncertain(self.marginal_kl, self.marginal_kl_se)} the distance of all codes "
            "together from it; the variance of all codes is "
            f"{number(float(self.aggregated_variance.mean()), 3)} per dimension."
        )
        if self.fixed_prior:
            return text
        return (
            f"{text} From its own prior, which follows each user's history, the divergence is "
            f"{uncertain(self.prior_kl, self.prior_kl_se)}."
        )

    def warnings(self) -> list[str]:
        """Saturation of the mutual information at log N."""
        if not self.saturated:
            return []
        return [
            f"The mutual information of {number(self.mutual_information)} nats is at the limit of "
            f"what {self.sample.used:,} users can show (log N = {number(self.limit)}): the true "
            f"value lies between it and {number(self.mutual_information_upper)}, and the distance "
            "of the aggregated posterior from the prior between "
            f"{number(max(self.kl - self.mutual_information_upper, 0))} and "
            f"{number(self.marginal_kl)}."
        ]

    def bounds(self) -> frozenset[str]:
        """Where the mutual information saturates, it and the rest only bound the true values."""
        return frozenset({"mutual_information", "marginal_kl"}) if self.saturated else frozenset()

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


@of_model
def information(
    model: VAE,
    user_items: Interactions,
    *,
    keep_probability: float = 0.5,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_draws: int = 1,
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
            "measure. Use a variational model, or coterie.mechanisms.active_units for "
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
    codes = [posterior.sample(generator) for _ in range(n_draws)]
    densities = torch.stack([log_densities(posterior, z) for z in codes])  # [n_draws, 3, N]
    own = torch.stack([log_prior(model, user_items, users, z) for z in codes])
    return _measured(model.prior, posterior, sample, keep_probability, codes, densities, own)


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
    prior: Prior | None,
    posterior: Posterior,
    sample: SampleSize,
    keep_probability: float,
    codes: list[Tensor],
    densities: Tensor,
    own_prior: Tensor,
) -> Information:
    """From densities of the codes ``[n_draws, 3, N]`` and of the model's prior ``[n_draws, N]``."""
    assert posterior.logvar is not None
    mu, logvar = posterior.mu.double(), posterior.logvar.double()
    own, mixture, without = densities.unbind(1)
    reference = own_prior
    if isinstance(prior, CompositePrior):
        reference = torch.stack([standard_normal(z).double() for z in codes])
    sampled, from_prior = (own - reference).mean(0), (own - own_prior).mean(0)
    lower, upper = (own - mixture).mean(0), (own - without).mean(0)
    closed = isinstance(prior, StandardNormal | CompositePrior)
    kl = kl_standard_normal(Posterior(mu, logvar)) if closed else sampled
    if isinstance(prior, StandardNormal):
        from_prior = kl

    def error(values: Tensor) -> float:
        return float(values.std() / len(values) ** 0.5)

    return Information(
        sample,
        keep_probability,
        fixed_prior=not isinstance(prior, CompositePrior),
        kl=float(kl.mean()),
        kl_se=error(kl),
        kl_sampled=float(sampled.mean()),
        prior_kl=float(from_prior.mean()),
        prior_kl_se=error(from_prior),
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
