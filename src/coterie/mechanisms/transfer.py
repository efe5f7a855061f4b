"""Who helps whom: the latent sharing radius, influence, and the change that a real step brings."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, PairGradients, common_noise_codes
from coterie.mechanisms.measurement import (
    Budget,
    Measurement,
    SampleSize,
    choose,
    choose_pairs,
    with_histories,
)
from coterie.mechanisms.style import BLUE, ORANGE, VERMILION, new_figure
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_USERS, LEAST_USERS = 300, 8
ELEMENTWISE = 600  # of the work per logit beyond matrix products, in operations; measured
BYTES_PER_LOGIT = 24  # float32 logits and probabilities, a float64 copy, and slack
N_PROBED = 128  # pairs on which the step's size is chosen and halved
SMALL_SHARE = 0.01  # of second order in first order
N_BINS = 10
LARGE_SHARE = 0.1  # second order above this share of first order is worth a warning


@dataclass(frozen=True, eq=False)
class MeasuredPairs:
    """What was measured of P ordered pairs (u, v): u's loss, and a training step on v.

    Parameters
    ----------
    sample
        Users looked at.
    users
        int64 ``[P, 2]``, internal indices of u and v.
    random
        bool ``[P]``: drawn uniformly; the others are nearest neighbours in the sample.
    input_distance, shared
        int64 ``[P]``: ``‖x_u − x_v‖₁`` and the number of items in common.
    w1_lower, w1_upper
        float64 ``[P]``: ``‖μ_u − μ_v‖`` and W2, which bracket W1 of the posteriors.
    gradients
        Norms, mismatches, influence, and W1 of the common-noise coupling.
    change
        float64 ``[P]``, nats: ``L_u(θ − η g_v) − L_u(θ)``.
    learning_rate
        η.
    second_order_share
        Sum of ``|change + η ⟨g_u, g_v⟩|`` over that of ``|η ⟨g_u, g_v⟩|``, random pairs: O(η).
    halving
        The same share after a step of η/2, relative to that of η, on some of the pairs: 0.5 if
        the deviation is of second order.
    """

    sample: SampleSize
    users: np.ndarray
    random: np.ndarray
    input_distance: np.ndarray
    shared: np.ndarray
    w1_lower: np.ndarray
    w1_upper: np.ndarray
    gradients: PairGradients
    change: np.ndarray
    learning_rate: float
    second_order_share: float
    halving: float

    @property
    def w1(self) -> np.ndarray:
        """The estimate of W1: mean distance in the common-noise coupling, float64 ``[P]``."""
        return self.gradients.code_distance

    @property
    def lipschitz(self) -> float:
        """``L_θz``: the steepest measured change of a gradient along the codes of a pair."""
        return float(self.gradients.steepest.max())

    @property
    def radius(self) -> np.ndarray:
        """``r_share(u, v) = [‖g_u‖ − Δ_x(u, v)]_+ / L_θz``, float64 ``[P]``."""
        spare = np.maximum(self.gradients.norm - self.gradients.content_mismatch, 0)
        radius: np.ndarray = spare / max(self.lipschitz, np.finfo(float).tiny)
        return radius

    @property
    def inside(self) -> np.ndarray:
        """Whether v lies within u's sharing radius, bool ``[P]``; implies ``certified``."""
        inside: np.ndarray = self.w1 < self.radius
        return inside

    @property
    def certified(self) -> np.ndarray:
        """Whether latent + content mismatch is below ``‖g_u‖``, bool ``[P]``: v must help."""
        of = self.gradients
        certified: np.ndarray = of.latent_mismatch + of.content_mismatch < of.norm
        return certified

    @property
    def improved(self) -> np.ndarray:
        """Whether u's loss fell, bool ``[P]``."""
        improved: np.ndarray = self.change < 0
        return improved

    def to_frame(self) -> pl.DataFrame:
        """One row per pair."""
        of = self.gradients
        return pl.DataFrame(
            {
                "user": self.users[:, 0],
                "other": self.users[:, 1],
                "random": self.random,
                "input_distance": self.input_distance,
                "shared_items": self.shared,
                "w1_lower": self.w1_lower,
                "w1": self.w1,
                "w1_upper": self.w1_upper,
                "gradient_norm": of.norm,
                "latent_mismatch": of.latent_mismatch,
                "content_mismatch": of.content_mismatch,
                "radius": self.radius,
                "inside": self.inside,
                "certified": self.certified,
                "influence": of.influence,
                "cosine": of.cosine,
                "change": self.change,
                "improved": self.improved,
            }
        )


@dataclass(frozen=True, eq=False)
class Transfer(Measurement):
    """Theorem 2.3 on sampled pairs: what ``transfer`` found.

    Parameters
    ----------
    sample
        Users looked at.
    pairs
        Every measured pair. Means are over its random pairs only.
    """

    name: ClassVar[str] = "transfer"
    title: ClassVar[str] = "Transfer between users and the sharing radius"
    meaning: ClassVar[str] = (
        "A training step on user v helps user u if it lowers u's loss. Theorem 2.3 names a "
        "sufficient condition: v's posterior lies within u's sharing radius. Outside, a step may "
        "help or hurt; the influence and the realised change say which. A cosine of 1 means that "
        "v's step is as good for u as u's own direction; 0 means that it does nothing for u."
    )
    method: ClassVar[str] = (
        "Theorem 2.3 of arXiv 2511.06781 on all of the decoder's parameters, with noise common to "
        "all users. W1 is bracketed by ‖μ_u − μ_v‖ and the closed form of W2, and estimated by the "
        "mean ‖z_us − z_vs‖ of the common-noise coupling, an upper bound on W1 of the drawn codes. "
        "L_θz is the largest ‖∇ℓ(x_u, z_us) − ∇ℓ(x_u, z_vs)‖ / ‖z_us − z_vs‖ among the measured "
        "pairs, so that the theorem holds exactly for the drawn codes; it is a lower bound on the "
        "true constant, and grows with the sample. 'Certified' replaces L_θz·W1 by the measured "
        "latent mismatch, which is never larger. The realised change is that of u's loss at the "
        "same codes after θ − η g_v, in all layers. Random pairs are drawn uniformly; each user's "
        "nearest neighbour in the sample by L1 distance is measured beside them and kept out of "
        "means and deciles. Errors are ± one standard error, robust to pairs that share a user."
    )
    sample: SampleSize
    pairs: MeasuredPairs

    @property
    def precision_inside(self) -> float | None:
        """Share of the pairs inside the radius that improved; None if there are none."""
        return _share(self.pairs.improved, self.pairs.inside)

    @property
    def precision_certified(self) -> float | None:
        """Share of the certified pairs that improved; None if there are none."""
        return _share(self.pairs.improved, self.pairs.certified)

    def figures(self) -> dict[str, float]:
        """Shares and means are over random pairs; counts are over all pairs."""
        pairs, random = self.pairs, self.pairs.random
        table = self.deciles().filter(pl.col("pairs_of") == "random")
        return {
            "share_inside": float(pairs.inside[random].mean()),
            "share_certified": float(pairs.certified[random].mean()),
            "share_improved": float(pairs.improved[random].mean()),
            "pairs_inside": float(pairs.inside.sum()),
            "pairs_certified": float(pairs.certified.sum()),
            "violations_inside": float((pairs.inside & ~pairs.improved).sum()),
            "violations_certified": float((pairs.certified & ~pairs.improved).sum()),
            "mean_cosine": float(pairs.gradients.cosine[random].mean()),
            "mean_influence": float(pairs.gradients.influence[random].mean()),
            "cosine_nearest_decile": float(table["cosine"][0]),
            "cosine_farthest_decile": float(table["cosine"][-1]),
            "median_w1": float(np.median(pairs.w1[random])),
            "median_radius": float(np.median(pairs.radius[random])),
            "lipschitz": pairs.lipschitz,
            "learning_rate": pairs.learning_rate,
            "second_order_share": pairs.second_order_share,
        }

    def sentence(self) -> str:
        """The radius and its self-check, then how influence falls with distance."""
        pairs, random = self.pairs, self.pairs.random
        rows = self.deciles().filter(pl.col("pairs_of") == "random")
        helped, error = mean_and_error(pairs.improved[random], pairs.users[random])
        near, far = rows.row(0, named=True), rows.row(-1, named=True)
        return (
            f"In this sample of {self.sample}, a step on a random other user lowers a user's loss "
            f"in {helped:.1%} ± {error:.1%} of {random.sum():,} pairs. "
            f"{_checked(pairs, pairs.inside, 'inside the sharing radius')} "
            f"{_checked(pairs, pairs.certified, 'certified by their measured mismatches')} "
            f"The mean cosine of two users' gradients is {near['cosine']:.3f} ± "
            f"{near['cosine_error']:.3f} in the nearest tenth by latent distance and "
            f"{far['cosine']:.3f} ± {far['cosine_error']:.3f} in the farthest."
        )

    def warnings(self) -> list[str]:
        """Violations of the theorem, an empty radius, and a step that is not first order."""
        pairs, found = self.pairs, []
        for kind, flag in (("inside the radius", pairs.inside), ("certified", pairs.certified)):
            wrong = int((flag & ~pairs.improved).sum())
            if wrong:
                found.append(
                    f"violation: {wrong} of {int(flag.sum())} pairs {kind} did not improve after "
                    f"a step of η = {pairs.learning_rate:.2g}. First-order influence is positive "
                    f"for {int((flag & ~pairs.improved & (pairs.gradients.influence > 0)).sum())} "
                    "of them: for these, the step is too large; the others are an error."
                )
        if not pairs.inside.any():
            found.append(
                "No measured pair lies inside the sharing radius: the theorem's condition is "
                "sufficient, not necessary, and decides nothing on this sample."
            )
        if pairs.second_order_share > LARGE_SHARE:
            found.append(
                f"Second-order terms are {pairs.second_order_share:.0%} of first-order ones at "
                f"η = {pairs.learning_rate:.2g}; pass a smaller learning_rate."
            )
        return found

    def to_frame(self) -> pl.DataFrame:
        """One row per pair: distances, norms, mismatches, radius, influence, change."""
        return self.pairs.to_frame()

    def deciles(self) -> pl.DataFrame:
        """Means by decile of W1 of the random pairs, and of the nearest neighbours (decile 0)."""
        pairs, random = self.pairs, self.pairs.random
        edges = np.quantile(pairs.w1[random], np.linspace(0, 1, N_BINS + 1)[1:-1])
        tenth = np.where(random, 1 + np.searchsorted(edges, pairs.w1, side="left"), 0)
        rows = []
        for at in np.unique(tenth).tolist():
            chosen = tenth == at
            row = {"pairs_of": "random" if at else "nearest neighbours", "decile": at}
            row |= {"n_pairs": int(chosen.sum()), "w1": float(pairs.w1[chosen].mean())}
            for name, values in (
                ("cosine", pairs.gradients.cosine),
                ("influence", pairs.gradients.influence),
                ("change", pairs.change),
                ("improved", pairs.improved),
                ("certified", pairs.certified),
            ):
                row[name], row[f"{name}_error"] = mean_and_error(
                    values[chosen], pairs.users[chosen]
                )
            rows.append(row)
        return pl.DataFrame(rows)

    def plot(self) -> "Figure":
        """Cosine by decile of distance; and each pair's mismatches against its gradient."""
        figure, (left, right) = new_figure(2)
        for kind, color, marker in (
            ("random", BLUE, "o-"),
            ("nearest neighbours", ORANGE, "D"),
        ):
            rows = self.deciles().filter(pl.col("pairs_of") == kind)
            errors = 1.96 * rows["cosine_error"].to_numpy()
            left.errorbar(
                rows["w1"], rows["cosine"], errors, fmt=marker, color=color, capsize=3, label=kind
            )
        left.axhline(0, color="#888888", lw=1)
        left.set(
            xlabel="latent distance W1 (mean of the decile)",
            ylabel="cosine of gradients\n(mean, 95 % interval)",
            title="Influence against distance",
        )
        left.legend(title="pairs")
        self._plot_condition(right)
        return figure

    def _plot_condition(self, axes: "Axes") -> None:
        pairs = self.pairs
        norm = pairs.gradients.norm
        total = (pairs.gradients.latent_mismatch + pairs.gradients.content_mismatch) / norm
        for flag, color, label in (
            (pairs.improved, BLUE, "loss fell"),
            (~pairs.improved, VERMILION, "loss rose"),
        ):
            axes.plot(
                total[flag], -pairs.change[flag] / (pairs.learning_rate * norm[flag] ** 2),
                ".", ms=4, alpha=0.4, color=color, label=label, mew=0, rasterized=True,
            )  # fmt: skip
        axes.axvline(1, color="#222222", lw=1, ls="--")
        axes.axhline(0, color="#888888", lw=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(
            xlabel="latent + content mismatch, share of ‖g‖\n(below 1, dashed: certified to help)",
            ylabel="fall of u's loss by a step on v\n(share of ‖g‖² η)",
            title="Theorem's condition and what happened",
        )
        axes.legend(loc="lower right", markerscale=3)


def _share(hits: np.ndarray, flag: np.ndarray) -> float | None:
    return float(hits[flag].mean()) if flag.any() else None


def _checked(pairs: MeasuredPairs, flag: np.ndarray, words: str) -> str:
    share = _share(pairs.improved, flag)
    if share is None:
        return f"No pair of {len(flag):,} is {words}."
    exact = "all" if share == 1 else f"only {share:.2%}"
    return f"{int(flag.sum()):,} of {len(flag):,} pairs are {words}; {exact} of them improved."


def transfer(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_draws: int = 8,
    learning_rate: float | None = None,
) -> Transfer:
    """Measure on sampled pairs how a step on one user changes another user's loss.

    Parameters
    ----------
    model
        In evaluation mode; a point posterior counts as a point mass.
    user_items
        Histories over the model's items; users without any are left out.
    generator
        On the CPU: chooses users and pairs, and draws the noise.
    budget
        Decides how many users and pairs are measured.
    n_draws
        S, codes per user; the theorem holds exactly for the drawn codes.
    learning_rate
        η of the realised step; None chooses one whose second-order terms are about 1 % of the
        first-order ones.

    Raises
    ------
    DataError
        Fewer than 8 users have a history, or the memory budget does not fit them.
    ConfigError
        The items are not the model's, the decoder is of another kind, or ``n_draws`` or
        ``learning_rate`` is not positive.

    References
    ----------
    Theorem 2.3 of arXiv 2511.06781.
    """
    pairs = measure_pairs(
        model, user_items, generator=generator, budget=budget, n_draws=n_draws,
        learning_rate=learning_rate, neighbours=True,
    )  # fmt: skip
    return Transfer(pairs.sample, pairs)


@torch.no_grad()
def measure_pairs(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget,
    n_draws: int,
    learning_rate: float | None,
    neighbours: bool,
) -> MeasuredPairs:
    """The engine of ``transfer`` and ``collaboration``; parameters as there.

    Half of the random pairs' order is a coin's: u is as often the smaller index as the larger.
    """
    if learning_rate is not None and not 0 < learning_rate < np.inf:
        raise ConfigError(f"learning_rate must be positive and finite, got {learning_rate}.")
    available = with_histories(user_items)
    n_users, n_pairs = _sizes(model, len(available), n_draws, budget)
    users = choose(available, n_users.used, generator)
    posterior = encode(model, user_items, users)
    codes = common_noise_codes(posterior, n_draws, generator)
    gradients = DecoderGradients(model, user_items.to_scipy()[users], codes)
    places = choose_pairs(len(users), n_pairs, generator)
    turned = torch.rand(len(places), generator=generator).numpy() < 0.5
    places[turned] = places[turned, ::-1]
    n_random = len(places)
    shared = gradients.shared.numpy()
    lengths = gradients.lengths.numpy()
    if neighbours:
        places = np.concatenate([places, _nearest(lengths, shared, places)])
    random = np.arange(len(places)) < n_random
    u, v = places.T
    found = gradients.pairs(places)
    rate = learning_rate or _small_rate(gradients, places[:N_PROBED], found.influence[:N_PROBED])
    change = gradients.changes(places, rate)
    probe = slice(0, min(N_PROBED, n_random))
    half = _second_order(
        gradients.changes(places[probe], rate / 2), found.influence[probe], rate / 2
    )
    whole = _second_order(change[probe], found.influence[probe], rate)
    lower, upper = _bracket(posterior, u, v)
    return MeasuredPairs(
        sample=n_users,
        users=users[places],
        random=random,
        input_distance=(lengths[u] + lengths[v] - 2 * shared[u, v]).astype(np.int64),
        shared=shared[u, v].astype(np.int64),
        w1_lower=lower,
        w1_upper=upper,
        gradients=found,
        change=change,
        learning_rate=rate,
        second_order_share=_second_order(change[:n_random], found.influence[:n_random], rate),
        halving=half / whole if whole else 0.5,
    )


def _sizes(model: VAE, n_available: int, n_draws: int, budget: Budget) -> tuple[SampleSize, int]:
    """How many users, and how many random pairs of them."""
    n_items, hidden = model.decoder.table.shape
    draws = max(1, n_draws) if model.config.variational else 1
    logits = draws * n_items
    users = budget.share(0.15).most(
        n_available,
        operations=logits * (4 * hidden + ELEMENTWISE / 4),
        memory=logits * BYTES_PER_LOGIT,
        least=LEAST_USERS,
        unit="users",
    )
    users = replace(users, used=min(users.used, MOST_USERS))
    pairs = budget.share(0.75).most(
        users.used * (users.used - 1) // 2,
        operations=logits * (2 * hidden + 4 * draws + ELEMENTWISE),
        memory=0,
        least=2 * LEAST_USERS,
        unit="pairs",
    )
    return users, pairs.used


def _nearest(lengths: np.ndarray, shared: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Each user with its nearest other by L1 distance, int64 ``[≤ N, 2]``, without ``drawn``."""
    n = len(lengths)
    distance = lengths[:, None] + lengths - 2 * shared
    np.fill_diagonal(distance, np.inf)
    pairs = np.stack([np.arange(n), distance.argmin(1)], axis=1)
    fresh = ~np.isin(pairs @ [n, 1], drawn @ [n, 1])
    nearest: np.ndarray = pairs[fresh]
    return nearest


def _small_rate(gradients: DecoderGradients, pairs: np.ndarray, influence: np.ndarray) -> float:
    """η whose second-order share, which is proportional to η, is at most ``SMALL_SHARE``.

    Starts where a step of the median user on itself lowers its loss by 0.1 %.
    """
    squares = gradients.squared_norms.median().item()
    if not squares > 0:
        raise DataError("The decoder's gradients vanish for the sampled users; is it trained?")
    rate = 1e-3 * gradients.losses.median().item() / squares
    share = _second_order(gradients.changes(pairs, rate), influence, rate)
    return rate * min(1.0, SMALL_SHARE / share) if share else rate


def _second_order(change: np.ndarray, influence: np.ndarray, rate: float) -> float:
    """Deviation from first order relative to it, both summed over pairs."""
    first = rate * influence
    total = float(np.abs(first).sum())
    return float(np.abs(change + first).sum()) / total if total else 0.0


def _bracket(posterior: Posterior, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``‖μ_u − μ_v‖`` and ``W2 = sqrt(‖μ_u − μ_v‖² + ‖σ_u − σ_v‖²)``, float64 ``[P]`` each."""
    lower = (posterior.mu[u].double() - posterior.mu[v].double()).norm(dim=1)
    if posterior.logvar is None:
        return lower.numpy(), lower.numpy()
    spread = (posterior.logvar.double() / 2).exp()
    return lower.numpy(), torch.hypot(lower, (spread[u] - spread[v]).norm(dim=1)).numpy()


def mean_and_error(values: np.ndarray, users: np.ndarray) -> tuple[float, float]:
    """Mean over pairs and its standard error, robust to pairs that share a user.

    ``Var = (Σ_user (Σ_pairs of the user e)² − Σ_pairs e²) / P²`` with ``e`` the deviations from
    the mean (Aronow, Samii & Assenova, Political Analysis 2015), but at least the error of
    independent pairs; NaN of a single pair's error.

    Parameters
    ----------
    values
        ``[P]``.
    users
        int64 ``[P, 2]``.
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, float("nan")
    deviations = np.asarray(values, dtype=np.float64) - mean
    of_user = np.bincount(np.unique(users, return_inverse=True)[1].ravel(), deviations.repeat(2))
    independent = float((deviations**2).sum())
    dyadic = float((of_user**2).sum()) - independent
    return mean, float(np.sqrt(max(dyadic, independent * n / (n - 1))) / n)
