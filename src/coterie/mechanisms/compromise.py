"""What two users lose by meeting at one code, and so why reconstruction separates them (Thm 2.5).

Our computable form for the multinomial: with profiles ``p_u = x_u/n_u`` and, at a code z, weights
``w = q_u(z)/(q_u(z)+q_v(z))``, the gap is the weighted Jensen–Shannon divergence of the profiles,
and the total gap ``2·E_{z~(q_u+q_v)/2}[gap(z)]``. It is what the best decoder still loses, in nats
per item of a history, summed over the two users, because it cannot tell them apart at z.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.distances import pick
from coterie.mechanisms.measurement import (
    LEAST_USERS,
    Budget,
    Measurement,
    SampleSize,
    of_model,
    sought_among,
    too_few,
    with_histories,
)
from coterie.mechanisms.numbers import number, percent, uncertain
from coterie.mechanisms.pairs import sample_pairs, standard_error
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"random": "random pairs", "nearest": "nearest by code"}
OVERLAPPING = 0.05  # from this shared probability mass on, two posteriors count as overlapping
MOST_PAIRS = 2000  # of each kind
MOST_AT_ONCE = 2_000_000  # pairs × draws × latent dimensions in memory: 16 MB each copy
SMALLEST_DRAWN = 1e-4  # nats; smaller gaps lie on the plot's lower edge
OPERATIONS_PER_NOISE = 300  # to draw one normal number and use it: memory-bound


def profile_gap(log_odds: Tensor, n_u: Tensor, n_v: Tensor, shared: Tensor) -> Tensor:
    """Weighted Jensen–Shannon divergence of two users' profiles, in nats, 0 … ln 2.

    ``w·KL(p_u ‖ m) + (1−w)·KL(p_v ‖ m)`` with ``m = w p_u + (1−w) p_v``. Profiles are uniform on
    their histories, so it has a closed form in the counts, and no item is looked at: an item of u
    alone contributes ``−(w/n_u) log w``, and all shared items contribute the same.

    Parameters
    ----------
    log_odds
        ``log(w/(1−w))``, here ``log q_u(z) − log q_v(z)``; float64, any shape.
    n_u, n_v, shared
        Items of u, of v and of both, float64, shapes that broadcast; ``n_u, n_v ≥ 1``.
    """
    log_odds = log_odds.clamp(-800, 800)  # beyond, a weight is 0 in float64, and 0·∞ is no number
    w, rest = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    log_w, log_rest = F.logsigmoid(log_odds), F.logsigmoid(-log_odds)
    only = -w * log_w * (n_u - shared) / n_u - rest * log_rest * (n_v - shared) / n_v
    # log(p_u/m) = −log(w + (1−w) n_u/n_v) for every shared item, and likewise for v.
    both_u = -w * torch.log1p(rest * (n_u / n_v - 1)) * shared / n_u
    both_v = -rest * torch.log1p(w * (n_v / n_u - 1)) * shared / n_v
    return (only + both_u + both_v).clamp(min=0)  # rounding only: a divergence is not negative


def _logvar(posterior: Posterior) -> Tensor:
    if posterior.logvar is None:
        raise ConfigError(
            "The compromise gap needs posteriors with a density, but this model encodes each user "
            "as a point (Multi-DAE): two users meet nowhere unless their codes are equal, and the "
            "gap is 0. Measure a variational model instead."
        )
    return posterior.logvar.double()


def log_density_ratio(noise: Tensor, a: Posterior, b: Posterior) -> Tensor:
    """``log q_a(z) − log q_b(z)`` at draws ``z = μ_a + σ_a∘ε`` from ``a``, float64 ``[P, D]``.

    By log-densities: with K = 200 the densities themselves leave the range of any float. The ratio
    is a quadratic function of ε, so it takes two products instead of the codes themselves.

    Parameters
    ----------
    noise
        ε, float64 ``[P, D, K]``.
    a, b
        Gaussian posteriors ``[P, K]``, row by row.
    """
    logvar_a, logvar_b = _logvar(a), _logvar(b)
    offset, precision = a.mu.double() - b.mu.double(), torch.exp(-logvar_b)
    constant = (offset.square() * precision + logvar_b - logvar_a).sum(1, keepdim=True)
    linear = 2 * offset * torch.exp(0.5 * logvar_a) * precision
    quadratic = torch.expm1(logvar_a - logvar_b)
    products = noise @ linear[:, :, None] + noise.square() @ quadratic[:, :, None]
    return 0.5 * (constant + products[:, :, 0])


@dataclass(frozen=True, eq=False)
class Gaps:
    """Per pair, float64 ``[P]``.

    Parameters
    ----------
    gap
        Total gap, nats per item summed over both users, 0 … 2 ln 2; Monte Carlo.
    gap_se
        Its standard error over the draws.
    overlap
        ``∫ min(q_u, q_v)``, 0 … 1; from the same draws.
    ceiling
        The gap if the two posteriors were equal: a matter of the histories alone.
    """

    gap: Tensor
    gap_se: Tensor
    overlap: Tensor
    ceiling: Tensor


@torch.no_grad()
def total_gaps(
    a: Posterior,
    b: Posterior,
    counts: Tensor,
    *,
    n_draws: int,
    generator: torch.Generator,
    pairs_at_once: int | None = None,
) -> Gaps:
    """Total compromise gaps between row p of ``a`` and row p of ``b`` (Theorem 2.5).

    Parameters
    ----------
    a, b
        Gaussian posteriors ``[P, K]``.
    counts
        ``n_u``, ``n_v`` and shared items, ``[P, 3]``.
    n_draws
        Draws from EACH of the two posteriors, at least 2.
    generator
        New noise for every pair, so that errors of pairs are independent.
    pairs_at_once
        Pairs in memory, with about ``4·n_draws·K`` float64 each; a moderate number by default.

    Raises
    ------
    ConfigError
        Point posteriors, which have no density, or too few draws.
    """
    if n_draws < 2:
        raise ConfigError(f"A standard error needs n_draws of at least 2, got {n_draws}.")
    step = pairs_at_once or max(1, MOST_AT_ONCE // (n_draws * a.mu.shape[1]))
    parts = []
    for start in range(0, len(a.mu), step):
        rows = np.arange(start, min(start + step, len(a.mu)))
        sizes = counts[rows].double()
        parts.append(_block(pick(a, rows), pick(b, rows), sizes, n_draws, generator))
    columns = torch.cat(parts) if parts else torch.empty(0, 4, dtype=torch.float64)
    return Gaps(*columns.T)


def _block(
    a: Posterior, b: Posterior, counts: Tensor, n_draws: int, generator: torch.Generator
) -> Tensor:
    n_u, n_v, shared = (column[:, None] for column in counts.T)
    noise = torch.randn(len(counts), 2, n_draws, a.mu.shape[1], generator=generator).double()
    odds = torch.stack(
        [log_density_ratio(noise[:, 0], a, b), -log_density_ratio(noise[:, 1], b, a)]
    )
    # Half of the draws come from each part of the mixture: 2·E = the sum of the two means.
    gap = profile_gap(odds, n_u, n_v, shared)
    error = (gap.var(2) / n_draws).sum(0).sqrt()
    overlap = torch.sigmoid(-odds.abs()).mean(2).sum(0)  # of min(w, 1 − w)
    ceiling = 2 * profile_gap(torch.zeros_like(n_u), n_u, n_v, shared)[:, 0]
    return torch.stack([gap.mean(2).sum(0), error, overlap, ceiling], 1)


@dataclass(frozen=True, eq=False)
class Compromise(Measurement):
    """Compromise gaps of pairs of users; from :func:`compromise`.

    Parameters
    ----------
    pairs
        One row per pair: ``user``, ``other`` (internal indices), ``kind`` (``random`` or
        ``nearest``), ``shared``, ``l1``, ``w1_lower``, ``w2``, and ``gap``,
        ``gap_se``, ``overlap``, ``ceiling`` as in :class:`Gaps`.
    n_draws
        From each posterior of a pair.
    sample
        The random pairs.
    among
        The users that nearest ones were sought among.
    """

    pairs: pl.DataFrame
    n_draws: int
    sample: SampleSize
    among: SampleSize

    name: ClassVar[str] = "compromise"
    title: ClassVar[str] = "Compromise gap"
    meaning: ClassVar[str] = (
        "Where the posteriors of two users overlap, the decoder must serve both with one "
        "distribution over items, and loses what their histories differ in. The gap is that loss "
        "in nats per item, summed over the two; the ceiling is what it would be if the two "
        "posteriors were equal. Reconstruction pushes users with different histories apart until "
        "the gap is nearly 0, and so random pairs hardly pay; what nearest pairs still pay is the "
        "price of being close enough to learn from each other."
    )
    method: ClassVar[str] = (
        "Theorem 2.5 of arXiv 2511.06781, in our form for the multinomial: twice the expected "
        "Jensen–Shannon divergence of the histories' profiles, weighted by the two posterior "
        "densities, over draws from both. Errors are standard errors over pairs that allow for "
        "pairs with a common user."
    )
    headline: ClassVar[tuple[str, ...]] = (
        "gap_random",
        "gap_nearest",
        "ceiling_random",
        "ceiling_nearest",
        "overlapping_random",
        "overlapping_nearest",
    )

    labels: ClassVar[Mapping[str, str]] = {
        f"{name}_nearest": f"{name}_nearest_by_code" for name in ("gap", "ceiling", "overlapping")
    }

    def _kind(self, kind: str) -> pl.DataFrame:
        return self.pairs.filter(pl.col("kind") == kind)

    def figures(self) -> dict[str, float]:
        """By kind: mean gap, its error, ceiling, overlap, share of pairs that overlap."""
        found: dict[str, float] = {}
        for kind in ("random", "nearest"):
            pairs = self._kind(kind)
            gap, overlap = pairs["gap"].to_numpy(), pairs["overlap"].to_numpy()
            found[f"gap_{kind}"] = float(gap.mean())
            found[f"gap_{kind}_se"] = standard_error(gap, pairs["user", "other"].to_numpy())
            found[f"ceiling_{kind}"] = float(pairs["ceiling"].to_numpy().mean())
            found[f"overlap_{kind}"] = float(overlap.mean())
            found[f"overlapping_{kind}"] = float((overlap >= OVERLAPPING).mean())
        return found

    def sentence(self) -> str:
        """Gap against ceiling, for random and for nearest pairs."""
        at = self.figures()
        told = {kind: _told(at, kind) for kind in ("random", "nearest")}
        return (
            f"In this sample two random users lose {told['random']}; neighbours nearest by code "
            f"lose {told['nearest']}. The posteriors of {percent(at['overlapping_random'])} of "
            f"random and {percent(at['overlapping_nearest'])} of nearest pairs share "
            f"{OVERLAPPING:.0%} of their mass or more; the others hardly meet."
        )

    def too_small(self) -> str:
        """Pairs of so few users are nearly the same pairs."""
        return too_few(self.among.used, LEAST_USERS, "users") or super().too_small()

    def warnings(self) -> list[str]:
        """Neighbours among a sample only; draws that seldom met the overlap."""
        found = sought_among(self.among, "they are closer and pay more")
        pairs = self._kind("nearest")
        if pairs["overlap"].mean() < 1 / self.n_draws:  # type: ignore[operator]
            found.append(
                f"Posteriors overlap less than {self.n_draws} draws from each resolve: the gaps of "
                "single pairs are rough, their means less so."
            )
        return found

    def to_frame(self) -> pl.DataFrame:
        """``pairs``."""
        return self.pairs

    def plot(self) -> "Figure":
        """Mean gap with a 95 % band, and ceiling, by decile of L1 and of W2 distance."""
        figure, axes = new_figure(2, width=4.6)
        columns = {
            "l1": "items in which the histories differ (L1)",
            "w2": "distance of posteriors (W2, latent units)",
        }
        for panel, (column, label) in zip(axes, columns.items(), strict=True):
            for kind, colour, marker in (("random", BLUE, "o"), ("nearest", VERMILION, "s")):
                _draw_deciles(panel, self._kind(kind), column, kind, colour, marker)
            panel.set_xlabel(label)
            panel.set_yscale("log")
            panel.set_ylim(0.8 * SMALLEST_DRAWN, 2)
        axes[0].set_ylabel("compromise gap (nats per item,\nboth users; under 0.0001 at the edge)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        return figure


def _told(figures: dict[str, float], kind: str) -> str:
    gap, error, ceiling = (
        figures[name] for name in (f"gap_{kind}", f"gap_{kind}_se", f"ceiling_{kind}")
    )
    amount = "under 0.0001" if gap < 1e-4 else uncertain(gap, error)
    share = f", {percent(gap / ceiling)} of" if ceiling > 0 else " of"
    most = number(ceiling, 3)
    return f"{amount} nats per item by sharing codes{share} the {most} at equal posteriors"


def _draw_deciles(
    axes: "Axes", pairs: pl.DataFrame, column: str, kind: str, colour: str, marker: str
) -> None:
    order = np.argsort(pairs[column].to_numpy(), kind="stable")
    parts = [pairs[part] for part in np.array_split(order, 10) if len(part)]
    x, gap, ceiling = (
        [float(part[name].to_numpy().mean()) for part in parts]
        for name in (column, "gap", "ceiling")
    )
    errors = [
        1.96 * standard_error(part["gap"].to_numpy(), part["user", "other"].to_numpy())
        for part in parts
    ]
    middle, low, high = (
        np.maximum(values, SMALLEST_DRAWN)
        for values in (gap, np.subtract(gap, errors), np.add(gap, errors))
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, middle, color=colour, marker=marker, markersize=4, label=NAMES[kind])
    axes.plot(x, ceiling, "--", color=colour, linewidth=1.2, label=f"{NAMES[kind]}, if equal")


@of_model
def compromise(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_draws: int = 32,
) -> Compromise:
    """What random and nearest pairs of users lose by meeting at one code (Theorem 2.5).

    Parameters
    ----------
    model
        A variational model, in evaluation mode.
    user_items
        Histories over the model's items.
    generator
        For the sample and the draws.
    n_draws
        From each of a pair's posteriors.

    Raises
    ------
    ConfigError
        The model has point posteriors, the items are not the model's, or ``n_draws`` is below 2.
    DataError
        Fewer than four users have a history.
    """
    latent_dim = model.config.latent_dim
    if not model.config.variational:
        _logvar(Posterior(torch.empty(0, latent_dim), None))
    pairs = sample_pairs(
        model,
        user_items,
        generator=generator,
        budget=budget,
        operations=2.0 * n_draws * latent_dim * OPERATIONS_PER_NOISE,
        most=MOST_PAIRS,
    )
    frame = pairs.frame(user_items)
    lengths = user_items.history_lengths[frame["user", "other"].to_numpy()]
    counts = torch.from_numpy(np.column_stack([lengths, frame["shared"].to_numpy()]))
    u, v = (pick(pairs.posterior, side) for side in pairs.both.T)
    elements = min(MOST_AT_ONCE, budget.memory / 64)
    gaps = total_gaps(
        u,
        v,
        counts,
        n_draws=n_draws,
        generator=generator,
        pairs_at_once=max(1, int(elements / (n_draws * latent_dim))),
    )
    columns = pl.DataFrame({name: values.numpy() for name, values in vars(gaps).items()})
    among = SampleSize(len(pairs.users), len(with_histories(user_items)), "users")
    return Compromise(frame.hstack(columns), n_draws, pairs.sample, among)
