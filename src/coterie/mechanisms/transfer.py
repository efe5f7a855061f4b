"""Who helps whom: the latent sharing radius, influence, and the change that a real step brings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.mechanisms.measured_pairs import MeasuredPairs, measure_pairs
from coterie.mechanisms.measurement import (
    LEAST_PAIRS,
    Budget,
    Measurement,
    SampleSize,
    of_model,
    too_few,
)
from coterie.mechanisms.numbers import number, percent, uncertain
from coterie.mechanisms.pairs import standard_error
from coterie.mechanisms.style import BLUE, ORANGE, VERMILION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_BINS = 10
NEAREST = "nearest by history"
LARGE_SHARE = 0.1  # second order above this share of first order is worth a warning


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
    headline: ClassVar[tuple[str, ...]] = (
        "share_inside",
        "share_certified",
        "share_improved",
        "violations_inside",
        "violations_certified",
        "mean_cosine",
        "cosine_nearest_decile",
        "cosine_farthest_decile",
    )
    labels: ClassVar[Mapping[str, str]] = {
        "cosine_nearest_decile": "cosine_nearest_tenth_by_code",
        "cosine_farthest_decile": "cosine_farthest_tenth_by_code",
    }
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
        cosine, users = pairs.gradients.cosine[random], pairs.users[random]
        table = self.deciles().filter(pl.col("pairs_of") == "random")
        return {
            "share_inside": float(pairs.inside[random].mean()),
            "share_certified": float(pairs.certified[random].mean()),
            "share_improved": float(pairs.improved[random].mean()),
            "share_improved_se": standard_error(pairs.improved[random], users),
            "pairs_inside": float(pairs.inside.sum()),
            "pairs_certified": float(pairs.certified.sum()),
            "violations_inside": float((pairs.inside & ~pairs.improved).sum()),
            "violations_certified": float((pairs.certified & ~pairs.improved).sum()),
            "mean_cosine": float(cosine.mean()),
            "mean_cosine_se": standard_error(cosine, users),
            "mean_influence": float(pairs.gradients.influence[random].mean()),
            "cosine_nearest_decile": float(table["cosine"][0]),
            "cosine_nearest_decile_se": float(table["cosine_se"][0]),
            "cosine_farthest_decile": float(table["cosine"][-1]),
            "cosine_farthest_decile_se": float(table["cosine_se"][-1]),
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
        helped = pairs.improved[random]
        error = standard_error(helped, pairs.users[random])
        near, far = rows.row(0, named=True), rows.row(-1, named=True)
        return (
            f"In this sample of {self.sample}, a step on a random other user lowers a user's loss "
            f"in {percent(helped.mean(), error)} of {random.sum():,} random pairs. "
            f"{_checked(pairs, pairs.inside, 'inside the sharing radius')} "
            f"{_checked(pairs, pairs.certified, 'certified by their measured mismatches')} "
            f"The mean cosine of two users' gradients is "
            f"{uncertain(near['cosine'], near['cosine_se'])} in the nearest tenth by latent "
            f"distance and {uncertain(far['cosine'], far['cosine_se'])} in the farthest."
        )

    def too_small(self) -> str:
        """So few random pairs leave less than ten to a tenth."""
        return too_few(int(self.pairs.random.sum()), LEAST_PAIRS, "random pairs")

    def warnings(self) -> list[str]:
        """Violations of the theorem, an empty radius, and a step that is not first order."""
        pairs, found = self.pairs, []
        for kind, flag in (("inside the radius", pairs.inside), ("certified", pairs.certified)):
            wrong = int((flag & ~pairs.improved).sum())
            if wrong:
                found.append(
                    f"violation: {wrong} of {int(flag.sum())} pairs {kind} did not improve after "
                    f"a step of η = {number(pairs.learning_rate, 2)}. First-order influence is "
                    "positive for "
                    f"{int((flag & ~pairs.improved & (pairs.gradients.influence > 0)).sum())} of "
                    "them: for these, the step is too large; the others are an error."
                )
        if not pairs.inside.any():
            found.append(
                "No measured pair lies inside the sharing radius: the theorem's condition is "
                "sufficient, not necessary, and decides nothing on this sample."
            )
        if pairs.second_order_share > LARGE_SHARE:
            found.append(
                f"Second-order terms are {pairs.second_order_share:.0%} of first-order ones at "
                f"η = {number(pairs.learning_rate, 2)}; pass a smaller learning_rate."
            )
        return found

    def to_frame(self) -> pl.DataFrame:
        """One row per pair: distances, norms, mismatches, radius, influence, change."""
        return self.pairs.to_frame()

    def deciles(self) -> pl.DataFrame:
        """Means by decile of W1 of the random pairs, and of those nearest by history (decile 0)."""
        pairs, random = self.pairs, self.pairs.random
        edges = np.quantile(pairs.w1[random], np.linspace(0, 1, N_BINS + 1)[1:-1])
        tenth = np.where(random, 1 + np.searchsorted(edges, pairs.w1, side="left"), 0)
        rows = []
        for at in np.unique(tenth).tolist():
            chosen = tenth == at
            row = {"pairs_of": "random" if at else NEAREST, "decile": at}
            row |= {"n_pairs": int(chosen.sum()), "w1": float(pairs.w1[chosen].mean())}
            for name, values in (
                ("cosine", pairs.gradients.cosine),
                ("influence", pairs.gradients.influence),
                ("change", pairs.change),
                ("improved", pairs.improved),
                ("certified", pairs.certified),
            ):
                row[name] = float(values[chosen].mean())
                row[f"{name}_se"] = standard_error(values[chosen], pairs.users[chosen])
            rows.append(row)
        return pl.DataFrame(rows)

    def plot(self) -> "Figure":
        """Cosine by decile of distance; and each pair's mismatches against its gradient."""
        figure, (left, right) = new_figure(2)
        for kind, color, marker in (
            ("random", BLUE, "o-"),
            (NEAREST, ORANGE, "D"),
        ):
            rows = self.deciles().filter(pl.col("pairs_of") == kind)
            errors = 1.96 * rows["cosine_se"].to_numpy()
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
        from matplotlib.ticker import LogLocator, NullFormatter

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
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(
            xlabel="latent + content mismatch, share of ‖g‖\n(below 1, dashed: certified to help)",
            ylabel="fall of u's loss by a step on v\n(share of ‖g‖² η)",
            title="Theorem's condition and what happened",
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, markerscale=3)


def _share(hits: np.ndarray, flag: np.ndarray) -> float | None:
    return float(hits[flag].mean()) if flag.any() else None


def _checked(pairs: MeasuredPairs, flag: np.ndarray, words: str) -> str:
    share, near = _share(pairs.improved, flag), int((~pairs.random).sum())
    every = f"{len(flag):,} ({near:,} of them {NEAREST})" if near else f"{len(flag):,}"
    if share is None:
        return f"No pair of {every} is {words}."
    exact = "all" if share == 1 else f"only {percent(share)}"
    return f"{int(flag.sum()):,} of {every} pairs are {words}; {exact} of them improved."


@of_model
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
