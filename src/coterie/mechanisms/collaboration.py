"""Local, global and unrelated pairs of users: who is inside whose radius, and whose steps help."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.measurement import Budget, Measurement, SampleSize
from coterie.mechanisms.style import COLLABORATION, new_figure
from coterie.mechanisms.transfer import MeasuredPairs, mean_and_error, measure_pairs
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAREST, FAR = 0.05, 0.5  # quantiles of the L1 distance; the definitions are fixed
CLASSES = (*COLLABORATION, "between")  # local, global, unrelated, and the rest
N_RESAMPLES = 1000
N_SHOWN, TITLES_SHOWN = 10, 4
FEW_PAIRS = 30
SCORED_BYTES = 2.5e8  # of probabilities held at once by pair_scores


@dataclass(frozen=True, eq=False)
class RelatedPair:
    """A global pair with aligned gradients.

    Parameters
    ----------
    user, other
        Internal indices.
    input_distance
        ``‖x_u − x_v‖₁``.
    cosine, influence
        Of the two users' gradients.
    shared
        Titles of common items, the rarest first.
    of_user, of_other
        Titles that only the one user has, the most popular first.
    """

    user: int
    other: int
    input_distance: int
    cosine: float
    influence: float
    shared: tuple[str, ...]
    of_user: tuple[str, ...]
    of_other: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Collaboration(Measurement):
    """Help by class of pair: what ``collaboration`` found.

    Parameters
    ----------
    sample
        Users looked at.
    pairs
        Random pairs of them, all measured.
    classes
        int64 ``[P]``, places in ``CLASSES``.
    near, far
        The L1 distances up to which a pair is local, and above which it may be global.
    share_interval
        95 % bootstrap interval of the global share, over users; NaN if nothing helps.
    related
        Global pairs with the largest cosine.
    """

    name: ClassVar[str] = "collaboration"
    title: ClassVar[str] = "Local and global collaboration"
    meaning: ClassVar[str] = (
        "Local pairs of users have nearly the same history; global pairs share something but "
        "differ in most. A model that collaborates globally learns much of a user from global "
        "pairs. The global share is their part of all the help that random pairs give; compare it "
        "with their part of the pairs, since most pairs of users are far apart."
    )
    method: ClassVar[str] = (
        "Random pairs of sampled users, with decoder gradients at codes of common noise (Theorem "
        "2.3 of arXiv 2511.06781). Our fixed definitions: local is the nearest 5 % of the pairs by "
        "L1 distance of the histories; of the others, unrelated share no item, global share one "
        "and are farther than the median, the rest is between. Help is the fall of u's loss by a "
        "real step on v, where it falls, in nats at the stated η. Errors are ± one standard error, "
        "robust to pairs that share a user; the interval of the global share is a bootstrap over "
        "users."
    )
    sample: SampleSize
    pairs: MeasuredPairs
    classes: np.ndarray
    near: float
    far: float
    share_interval: tuple[float, float]
    related: tuple[RelatedPair, ...]

    @property
    def help(self) -> np.ndarray:
        """``max(0, −change)``, nats, float64 ``[P]``."""
        return help_of(self.pairs)

    @property
    def global_share(self) -> float:
        """Help from global pairs / help from all; 0 if nothing helps."""
        total = float(self.help.sum())
        return (
            float(self.help[self.classes == CLASSES.index("global")].sum()) / total
            if total
            else 0.0
        )

    def figures(self) -> dict[str, float]:
        """The global share and, per class, shares of pairs and of help, and means."""
        found = {
            "global_share": self.global_share,
            "global_share_low": self.share_interval[0],
            "global_share_high": self.share_interval[1],
            "learning_rate": self.pairs.learning_rate,
        }
        for row in self.to_frame().iter_rows(named=True):
            for name in ("share_of_pairs", "share_of_help", "certified", "cosine", "help"):
                found[f"{row['class']}_{name}"] = row[name]
        return found

    def sentence(self) -> str:
        """The global share beside the share of pairs, and the classes' cosines."""
        rows = {row["class"]: row for row in self.to_frame().iter_rows(named=True)}
        low, high = self.share_interval
        cosines = ", ".join(
            f"{rows[name]['cosine']:.3f} ± {rows[name]['cosine_error']:.3f} for {name} pairs"
            for name in COLLABORATION
            if rows[name]["n_pairs"]
        )
        certified = self.pairs.certified.mean()
        return (
            f"In this sample of {self.sample} and {len(self.classes):,} random pairs, global pairs "
            f"are {rows['global']['share_of_pairs']:.1%} of the pairs and give "
            f"{self.global_share:.1%} of the help (95 % interval {low:.1%} to {high:.1%}); local "
            f"pairs are {rows['local']['share_of_pairs']:.1%} and give "
            f"{rows['local']['share_of_help']:.1%}. The mean cosine of gradients is {cosines}. "
            f"Theorem 2.3 certifies {certified:.1%} of the pairs from their mismatches."
        )

    def warnings(self) -> list[str]:
        """Classes with too few pairs for their means to say much."""
        found = []
        for row in self.to_frame().iter_rows(named=True):
            if row["class"] in COLLABORATION and row["n_pairs"] < FEW_PAIRS:
                found.append(
                    f"Only {row['n_pairs']} {row['class']} pairs were sampled; their figures are "
                    "rough or zero. A larger budget takes more pairs."
                )
        return found

    def to_frame(self) -> pl.DataFrame:
        """One row per class; empty classes have zeros, and errors of NaN."""
        pairs, total = self.pairs, float(self.help.sum())
        rows = []
        for at, name in enumerate(CLASSES):
            chosen = self.classes == at
            row = {"class": name, "n_pairs": int(chosen.sum())}
            row["share_of_pairs"] = float(chosen.mean())
            row["share_of_help"] = float(self.help[chosen].sum()) / total if total else 0.0
            for column, values in (
                ("inside", pairs.inside),
                ("certified", pairs.certified),
                ("improved", pairs.improved),
                ("influence", pairs.gradients.influence),
                ("cosine", pairs.gradients.cosine),
                ("help", self.help),
            ):
                row[column], row[f"{column}_error"] = (
                    mean_and_error(values[chosen], pairs.users[chosen])
                    if chosen.any()
                    else (0.0, float("nan"))
                )
            rows.append(row)
        return pl.DataFrame(rows)

    def related_frame(self) -> pl.DataFrame:
        """The far-but-related pairs, one row each; titles joined by semicolons."""
        return pl.DataFrame(
            [
                {
                    **vars(pair),
                    **{k: "; ".join(getattr(pair, k)) for k in ("shared", "of_user", "of_other")},
                }
                for pair in self.related
            ]
        )

    def plot(self) -> "Figure":
        """Cosine by class, and each class's share of the pairs and of the help."""
        table = self.to_frame()
        colors = [COLLABORATION.get(name, "#DDCC99") for name in CLASSES]
        figure, (left, right) = new_figure(2)
        places = np.arange(len(CLASSES))
        errors = 1.96 * np.nan_to_num(table["cosine_error"].to_numpy())
        left.bar(places, table["cosine"], yerr=errors, color=colors, capsize=4)
        left.axhline(0, color="#888888", lw=1)
        left.set(
            ylabel="cosine of gradients\n(mean, 95 % interval)", title="How much a pair agrees"
        )
        both = (("share_of_pairs", -0.2, "of pairs", 0.45), ("share_of_help", 0.2, "of help", 1.0))
        for column, shift, label, alpha in both:
            values = 100 * table[column].to_numpy()
            bars = right.bar(places + shift, values, 0.4, color=colors, alpha=alpha, label=label)
            right.bar_label(bars, labels=[f"{value:.0f}" for value in values], fontsize=9)
        at, (low, high) = CLASSES.index("global"), self.share_interval
        if np.isfinite(low):
            right.vlines(at + 0.33, 100 * low, 100 * high, color="#222222", lw=2)
        right.set(ylabel="share, %", title="Pairs (pale) and the help they give (full)")
        for axes in (left, right):
            axes.set_xticks(places, CLASSES)
            axes.grid(visible=False, axis="x")
        return figure


def help_of(pairs: MeasuredPairs) -> np.ndarray:
    """Fall of u's loss by the step on v, 0 where it rose; nats, float64 ``[P]``."""
    help_: np.ndarray = np.maximum(-pairs.change, 0)
    return help_


def classify(input_distance: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Class of each pair (a place in ``CLASSES``, int64 ``[P]``), and the two distances.

    Local: distance at most the 5 % quantile. Of the others, unrelated: no shared item; global: a
    shared item and a distance above the median; between: the rest.
    """
    near, far = np.quantile(input_distance, [NEAREST, FAR])
    local, related = input_distance <= near, shared > 0
    conditions = [local, related & (input_distance > far), ~related]
    classes = np.select(conditions, [0, 1, 2], default=3)
    return classes, float(near), float(far)


def collaboration(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    n_draws: int = 8,
    item_titles: Sequence[str] | None = None,
) -> Collaboration:
    """Measure who helps whom by class of pair: local, global, unrelated.

    Parameters
    ----------
    model
        In evaluation mode; a point posterior counts as a point mass.
    user_items
        Histories over the model's items.
    generator
        On the CPU: chooses users and pairs, draws the noise and the bootstrap.
    budget
        Decides how many users and pairs are measured.
    n_draws
        S, codes per user.
    item_titles
        ``[I]``, by which far-but-related pairs are shown; None shows the items' external ids.

    Raises
    ------
    DataError
        Fewer than 8 users have a history, or the memory budget does not fit them.
    ConfigError
        The items are not the model's, ``item_titles`` has another length, or ``n_draws`` is not
        positive.
    """
    if item_titles is not None and len(item_titles) != user_items.n_items:
        raise ConfigError(
            f"item_titles needs one title per item, {user_items.n_items}; got {len(item_titles)}."
        )
    pairs = measure_pairs(
        model, user_items, generator=generator, budget=budget, n_draws=n_draws,
        learning_rate=None, neighbours=False,
    )  # fmt: skip
    classes, near, far = classify(pairs.input_distance, pairs.shared)
    return Collaboration(
        pairs.sample, pairs, classes, near, far,
        share_interval=_bootstrap(pairs, classes == CLASSES.index("global"), generator),
        related=_related(pairs, classes, user_items, item_titles),
    )  # fmt: skip


def _bootstrap(
    pairs: MeasuredPairs, chosen: np.ndarray, generator: torch.Generator
) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the share of help, users drawn with repeats."""
    known, place = np.unique(pairs.users, return_inverse=True)
    n = len(known)
    drawn = torch.randint(0, n, (N_RESAMPLES, n), generator=generator)
    times = torch.zeros(N_RESAMPLES, n).scatter_add_(1, drawn, torch.ones(N_RESAMPLES, n)).numpy()
    u, v = place.reshape(-1, 2).T
    weights = times[:, u] * times[:, v]  # [resamples, P]
    help_ = help_of(pairs)
    total = weights @ help_
    if not (total > 0).any():
        return float("nan"), float("nan")
    shares = (weights @ (help_ * chosen))[total > 0] / total[total > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _related(
    pairs: MeasuredPairs,
    classes: np.ndarray,
    user_items: Interactions,
    item_titles: Sequence[str] | None,
) -> tuple[RelatedPair, ...]:
    cosine = pairs.gradients.cosine
    far = np.flatnonzero((classes == CLASSES.index("global")) & (cosine > 0))
    best = far[np.argsort(-cosine[far], kind="stable")[:N_SHOWN]]
    counts = user_items.item_counts()

    def titles(items: np.ndarray, *, rare_first: bool) -> tuple[str, ...]:
        order = np.argsort(counts[items] if rare_first else -counts[items], kind="stable")
        shown = items[order[:TITLES_SHOWN]]
        if item_titles is None:
            return tuple(str(name) for name in user_items.item_ids.to_ids(shown))
        return tuple(str(item_titles[item]) for item in shown.tolist())

    found = []
    for at in best.tolist():
        user, other = pairs.users[at].tolist()
        one, another = (
            np.asarray(user_items.indices[user_items.indptr[w] : user_items.indptr[w + 1]])
            for w in (user, other)
        )
        found.append(
            RelatedPair(
                user=user,
                other=other,
                input_distance=int(pairs.input_distance[at]),
                cosine=float(cosine[at]),
                influence=float(pairs.gradients.influence[at]),
                shared=titles(np.intersect1d(one, another), rare_first=True),
                of_user=titles(np.setdiff1d(one, another), rare_first=False),
                of_other=titles(np.setdiff1d(another, one), rare_first=False),
            )
        )
    return tuple(found)


@dataclass(frozen=True, eq=False)
class PairScores:
    """Influence ``⟨g_u, g_v⟩`` and its cosine for given pairs, float64 ``[P]`` each."""

    influence: np.ndarray
    cosine: np.ndarray


@torch.no_grad()
def pair_scores(
    model: VAE,
    user_items: Interactions,
    pairs: np.ndarray,
    *,
    generator: torch.Generator,
    n_draws: int = 8,
) -> PairScores:
    """Influence and cosine of given pairs of users, int64 ``[P, 2]`` of internal indices.

    Raises
    ------
    DataError
        ``pairs`` has another shape, or names a user that is not there or has no history.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DataError(f"pairs must have the shape [P, 2], got {list(pairs.shape)}.")
    users, place = np.unique(pairs, return_inverse=True)
    if len(users) and not 0 <= users[0] <= users[-1] < user_items.n_users:
        raise DataError(f"pairs must name users 0 … {user_items.n_users - 1}.")
    if not user_items.history_lengths[users].all():
        raise DataError("pairs names a user without any item; leave such users out.")
    place = place.reshape(-1, 2)
    codes = common_noise_codes(encode(model, user_items, users), n_draws, generator)
    histories = user_items.to_scipy()[users]
    at_once = max(1, int(SCORED_BYTES // (8 * codes.shape[1] * model.n_items)))  # two per pair
    influence, cosine = np.empty(len(pairs)), np.empty(len(pairs))
    order = np.argsort(place[:, 0], kind="stable")
    for start in range(0, len(pairs), at_once):
        block = order[start : start + at_once]
        some, inner = np.unique(place[block], return_inverse=True)
        inner = inner.reshape(-1, 2)
        gradients = DecoderGradients(model, histories[some], codes[some])
        influence[block] = gradients.influences(inner)
        sizes = gradients.squared_norms.sqrt().numpy()[inner].prod(1)
        cosine[block] = influence[block] / np.where(sizes > 0, sizes, 1)
    return PairScores(influence, cosine)
