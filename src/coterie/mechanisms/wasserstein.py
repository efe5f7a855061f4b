"""How far apart users' posteriors are, and how that follows from their histories (Lemma 2.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.mechanisms.distances import w1_transport
from coterie.mechanisms.measurement import (
    LEAST_USERS,
    Budget,
    Measurement,
    SampleSize,
    choose,
    of_model,
    sought_among,
    too_few,
    with_histories,
)
from coterie.mechanisms.numbers import number, percent, uncertain
from coterie.mechanisms.pairs import Correlation, rank_correlation, sample_pairs, standard_error
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"random": "random pairs", "nearest": "nearest by code"}
MOST_TRANSPORTS, TRANSPORT_DRAWS = 128, 64
FOLLOWS = (  # rank correlations, and words for those above
    (0.7, "closely follows"),
    (0.3, "moderately follows"),
    (-0.3, "hardly follows"),
    (-2.0, "runs against"),
)


@dataclass(frozen=True, eq=False)
class Wasserstein(Measurement):
    """Distances between posteriors; from :func:`wasserstein`.

    Parameters
    ----------
    pairs
        One row per pair: ``user``, ``other`` (internal indices), ``kind`` (``random`` or
        ``nearest``), ``shared`` items, ``l1`` (items that only one of them has), ``w1_lower``,
        ``w2`` and, for some, ``w1_transport``; ``ratio`` is ``w1_lower / l1`` (null for equal
        histories).
    n_users, n_available
        Among whom the pairs were taken, and how many have a history.
    sample
        The random pairs.
    """

    pairs: pl.DataFrame
    n_users: int
    n_available: int
    sample: SampleSize

    name: ClassVar[str] = "wasserstein"
    title: ClassVar[str] = "Distance between posteriors"
    meaning: ClassVar[str] = (
        "Users whose posteriors are close train the decoder at nearly the same codes, so they can "
        "help each other. With clean input the encoder keeps users with similar histories close: "
        "a high rank correlation says that closeness follows shared items. The largest ratio of "
        "latent distance to differing items is a lower bound of the encoder's Lipschitz constant "
        "over binary histories; the network itself sees them L2-normalised, so one item moves a "
        "short history further than a long one."
    )
    method: ClassVar[str] = (
        "Lemma 2.4 of arXiv 2511.06781. W1 of diagonal Gaussians lies between the distance of the "
        "means and W2; ratios use the lower end. Optimal transport (POT) between draws with shared "
        "noise estimates W1 for some pairs, in expectation between W1 and W2. Errors are standard "
        "errors that allow for pairs with a common user."
    )

    headline: ClassVar[tuple[str, ...]] = (
        "w2_random",
        "w2_nearest",
        "l1_random",
        "l1_nearest",
        "w1_lower_share_random",
        "ratio_median",
        "ratio_max",
        "rank_correlation",
    )

    labels: ClassVar[Mapping[str, str]] = {
        "w2_nearest": "w2_nearest_by_code",
        "l1_nearest": "l1_nearest_by_code",
    }

    def _kind(self, kind: str) -> pl.DataFrame:
        return self.pairs.filter(pl.col("kind") == kind)

    def correlation(self) -> Correlation:
        """Rank correlation of L1 and W2 distance over the random pairs."""
        pairs = self._kind("random")
        return rank_correlation(
            pairs["l1"].to_numpy(), pairs["w2"].to_numpy(), pairs["user", "other"].to_numpy()
        )

    def figures(self) -> dict[str, float]:
        """By kind: W2 and its error, W1 as shares of W2, L1; ratios; the rank correlation."""
        found: dict[str, float] = {}
        for kind in ("random", "nearest"):
            pairs = self._kind(kind)
            values = pairs["w2"].to_numpy()
            found[f"w2_{kind}"] = float(values.mean())
            found[f"w2_{kind}_se"] = standard_error(values, pairs["user", "other"].to_numpy())
            apart = pairs.filter(pl.col("w2") > 0)
            for column in ("w1_lower", "w1_transport"):
                found[f"{column}_share_{kind}"] = _number((apart[column] / apart["w2"]).mean())
            found[f"l1_{kind}"] = float(pairs["l1"].to_numpy().mean())
        ratios = self.pairs["ratio"]
        for name, level in {"median": 0.5, "95": 0.95, "max": 1.0}.items():
            found[f"ratio_{name}"] = _number(ratios.quantile(level, "linear"))
        correlation = self.correlation()
        found["rank_correlation"] = correlation.estimate
        found["rank_correlation_low"] = correlation.low
        found["rank_correlation_high"] = correlation.high
        return found

    def sentence(self) -> str:
        """Distances, how they follow the histories, and the largest ratio."""
        at = self.figures()
        told = (
            "In this sample two random users lie "
            f"{uncertain(at['w2_random'], at['w2_random_se'])} apart in latent space (W2; W1 is at "
            f"most {percent(1 - at['w1_lower_share_random'])} less) and differ in "
            f"{at['l1_random']:.0f} items; neighbours nearest by code lie "
            f"{uncertain(at['w2_nearest'], at['w2_nearest_se'])} apart and differ in "
            f"{at['l1_nearest']:.0f}."
        )
        if np.isnan(at["rank_correlation"]):
            return f"{told} One of the two distances does not vary, so they cannot be correlated."
        size = at["rank_correlation"]
        how = next(words for above, words in FOLLOWS if size > above)
        return (
            f"{told} Latent distance {how} the number of differing items: rank correlation "
            f"{number(size, 2)} (95 % interval {number(at['rank_correlation_low'], 2)} to "
            f"{number(at['rank_correlation_high'], 2)}). Per differing item posteriors move apart "
            f"by {number(at['ratio_median'], 3)} at the median and up to "
            f"{number(at['ratio_max'], 3)}, a lower bound of the encoder's Lipschitz constant."
        )

    def warnings(self) -> list[str]:
        """Neighbours among a sample only; equal histories."""
        among = SampleSize(self.n_users, self.n_available, "users")
        found = sought_among(among, "they are closer")
        if equal := self.pairs["ratio"].null_count():
            found.append(f"{equal} pairs have equal histories and so no ratio.")
        return found

    def too_small(self) -> str:
        """Pairs of so few users are nearly the same pairs."""
        return too_few(self.n_users, LEAST_USERS, "users") or super().too_small()

    def to_frame(self) -> pl.DataFrame:
        """``pairs``."""
        return self.pairs

    def plot(self) -> "Figure":
        """W2 against L1 by decile of L1: median and the middle 80 % of both kinds of pairs."""
        figure, (axes,) = new_figure()
        for kind, colour, marker in (("random", BLUE, "o"), ("nearest", VERMILION, "s")):
            x, low, middle, high = _by_decile(self._kind(kind))
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            label = f"{NAMES[kind]}: median, middle 80 %"
            axes.plot(x, middle, color=colour, marker=marker, markersize=4, label=label)
        axes.set_xlabel("items in which the histories differ (L1)")
        axes.set_ylabel("distance of posteriors (W2, latent units)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return figure


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _by_decile(pairs: pl.DataFrame) -> np.ndarray:
    """Mean L1 and the 10 %, 50 % and 90 % quantiles of W2 by decile of L1, ``[4, ≤ 10]``."""
    order = np.argsort(pairs["l1"].to_numpy(), kind="stable")
    l1, distances = pairs["l1"].to_numpy()[order], pairs["w2"].to_numpy()[order]
    parts = [part for part in np.array_split(np.arange(len(l1)), 10) if len(part)]
    return np.array(
        [[l1[part].mean(), *np.quantile(distances[part], [0.1, 0.5, 0.9])] for part in parts]
    ).T


@of_model
def wasserstein(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
) -> Wasserstein:
    """Distances of random and of nearest pairs, and their ratio to the histories' (Lemma 2.4).

    Parameters
    ----------
    model
        Any VAE, in evaluation mode; for a Multi-DAE W1 and W2 are the distance of the codes.
    user_items
        Histories over the model's items.
    generator
        For the sample and the draws of the transport.
    budget
        A third each for neighbours, pairs and transport.

    Raises
    ------
    DataError
        Fewer than four users have a history.
    ConfigError
        The histories' items are not the model's.
    MissingExtraError
        POT is not installed.
    """
    per_pair = 200.0 * (model.config.latent_dim + user_items.history_lengths.mean())
    pairs = sample_pairs(model, user_items, generator=generator, budget=budget, operations=per_pair)
    frame = pairs.frame(user_items)
    size = budget.share(1 / 3).most(
        len(frame), operations=4e7, memory=40 * TRANSPORT_DRAWS**2, least=1, unit="pairs of users"
    )
    chosen = choose(np.arange(len(frame)), min(size.used, MOST_TRANSPORTS), generator)
    estimates = np.full(len(frame), np.nan)
    estimates[chosen] = w1_transport(
        pairs.posterior, pairs.both[chosen], TRANSPORT_DRAWS, generator
    ).numpy()
    frame = frame.with_columns(
        pl.Series("w1_transport", estimates).fill_nan(None),
        pl.when(pl.col("l1") > 0).then(pl.col("w1_lower") / pl.col("l1")).alias("ratio"),
    )
    n_available = len(with_histories(user_items))
    return Wasserstein(frame, len(pairs.users), n_available, pairs.sample)
