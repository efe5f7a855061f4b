"""Local, global and unrelated pairs of users: who is inside whose radius, and whose steps help."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.mechanisms.measured_pairs import MeasuredPairs, measure_pairs
from coterie.mechanisms.measurement import (
    LEAST_PAIRS,
    LEAST_USERS,
    Budget,
    Measurement,
    SampleSize,
    of_model,
    too_few,
)
from coterie.mechanisms.numbers import percent, uncertain
from coterie.mechanisms.pairs import standard_error
from coterie.mechanisms.related import RelatedPair, related_pairs, shared_taste, tastes
from coterie.mechanisms.style import COLLABORATION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAREST, FAR = 0.05, 0.5  # quantiles of the L1 distance; the definitions are fixed
CLASSES = (*COLLABORATION, "between")  # local, global, unrelated, and the rest
N_RESAMPLES = 1000
RESAMPLED_AT_ONCE = 1_000_000  # pairs × resamples in memory
RELATED = 0.1  # of the global pairs; the texts say "the tenth"
N_SHOWN = 10
FEW_PAIRS = 30


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
    taste
        float64 ``[P]``: ``related.shared_taste``.
    related
        The global pairs with the most shared taste, at most 10.
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
        "users. Far-but-related pairs are the tenth of the global pairs with the most shared "
        "taste: the cosine of the two histories, each item weighted by how much likelier the "
        "user's own code makes it than the sampled users' codes on average (ours)."
    )
    headline: ClassVar[tuple[str, ...]] = (
        "global_share",
        "global_share_of_pairs",
        "local_share_of_help",
        "local_share_of_pairs",
        "local_cosine",
        "global_cosine",
        "related_cosine",
        "related_share_of_global_help",
    )
    sample: SampleSize
    pairs: MeasuredPairs
    classes: np.ndarray
    near: float
    far: float
    share_interval: tuple[float, float]
    taste: np.ndarray
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

    @property
    def most_related(self) -> np.ndarray:
        """Places of the far-but-related pairs, the most shared taste first; int64."""
        of_global = np.flatnonzero(self.classes == CLASSES.index("global"))
        order = np.argsort(-self.taste[of_global], kind="stable")
        places: np.ndarray = of_global[order[: int(np.ceil(RELATED * len(of_global)))]]
        return places

    @property
    def related_share(self) -> float:
        """Help from far-but-related pairs / help from all global pairs; 0 if none helps."""
        total = float(self.help[self.classes == CLASSES.index("global")].sum())
        return float(self.help[self.most_related].sum()) / total if total else 0.0

    def figures(self) -> dict[str, float]:
        """The global share and, per class, shares of pairs and of help, and means."""
        cosine, of_pairs = self.pairs.gradients.cosine[self.most_related], self.pairs.users
        found = {
            "global_share": self.global_share,
            "global_share_low": self.share_interval[0],
            "global_share_high": self.share_interval[1],
            "learning_rate": self.pairs.learning_rate,
            "related_share_of_global_help": self.related_share,
            "related_cosine": float(cosine.mean()) if len(cosine) else 0.0,
            "related_cosine_se": standard_error(cosine, of_pairs[self.most_related]),
        }
        for row in self.to_frame().iter_rows(named=True):
            for name in ("share_of_pairs", "share_of_help", "certified"):
                found[f"{row['class']}_{name}"] = row[name]
            for name in ("cosine", "cosine_se", "help", "help_se"):
                found[f"{row['class']}_{name}"] = row[name]
        return found

    def too_small(self) -> str:
        """So few pairs leave less than ten to most classes."""
        return too_few(len(self.classes), LEAST_PAIRS, "random pairs")

    def hidden(self) -> frozenset[str]:
        """Figures of classes with fewer than ten pairs."""
        counts = {name: int((self.classes == at).sum()) for at, name in enumerate(CLASSES)}
        counts["related"] = len(self.most_related)
        few = tuple(name for name, count in counts.items() if count < LEAST_USERS)
        return frozenset(name for name in self.headline if name.startswith(few) if few)

    def sentence(self) -> str:
        """The global share beside the share of pairs, and the classes' cosines."""
        rows = {row["class"]: row for row in self.to_frame().iter_rows(named=True)}
        low, high = self.share_interval
        cosines = ", ".join(
            f"{uncertain(rows[name]['cosine'], rows[name]['cosine_se'])} for {name} pairs"
            for name in COLLABORATION
            if rows[name]["n_pairs"] >= LEAST_USERS
        )
        certified = self.pairs.certified.mean()
        return (
            f"In this sample of {self.sample} and {len(self.classes):,} random pairs, global pairs "
            f"are {percent(rows['global']['share_of_pairs'])} of the pairs and give "
            f"{percent(self.global_share)} of the help (95 % interval {percent(low)} to "
            f"{percent(high)}); local pairs are {percent(rows['local']['share_of_pairs'])} and "
            f"{self._of_local(rows['local'])}. The mean cosine of gradients is "
            f"{cosines}. Theorem 2.3 certifies {percent(certified)} of the pairs from their "
            f"mismatches.{self._of_related()}"
        )

    def _of_local(self, row: dict[str, Any]) -> str:
        few = row["n_pairs"] < LEAST_USERS
        return "too few to tell" if few else f"give {percent(row['share_of_help'])}"

    def _of_related(self) -> str:
        if len(self.most_related) < LEAST_USERS:
            return ""
        figures = self.figures()
        cosine = uncertain(figures["related_cosine"], figures["related_cosine_se"])
        return (
            " The far-but-related pairs, the tenth of the global pairs with the most shared taste, "
            f"give {percent(self.related_share)} of the global pairs' help; their gradients' mean "
            f"cosine is {cosine}."
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
                row[column] = float(values[chosen].mean()) if chosen.any() else 0.0
                row[f"{column}_se"] = standard_error(values[chosen], pairs.users[chosen])
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
        errors = 1.96 * np.nan_to_num(table["cosine_se"].to_numpy())
        left.bar(places, table["cosine"], yerr=errors, color=colors, capsize=4)
        left.axhline(0, color="#888888", lw=1)
        left.set(
            ylabel="cosine of gradients\n(mean, 95 % interval)", title="How much a pair agrees"
        )
        both = (("share_of_pairs", -0.2, "of pairs", 0.45), ("share_of_help", 0.2, "of help", 1.0))
        for column, shift, label, alpha in both:
            values = 100 * table[column].to_numpy()
            right.bar(places + shift, values, 0.4, color=colors, alpha=alpha, label=label)
            tops = values.copy()
            if column == "share_of_help" and np.isfinite(self.share_interval[0]):
                at, (low, high) = CLASSES.index("global"), 100 * np.array(self.share_interval)
                right.errorbar(
                    at + shift,
                    values[at],
                    [[max(values[at] - low, 0)], [max(high - values[at], 0)]],
                    color="#222222",
                    capsize=4,
                )
                tops[at] = max(tops[at], high)
            for place, value, top in zip(places, values, tops, strict=True):
                right.text(place + shift, top + 1.5, f"{value:.0f}", ha="center", fontsize=10)
        right.set(ylabel="share, %", title="Pairs (pale) and their help (full, 95 % interval)")
        right.set_ylim(0, 1.08 * right.get_ylim()[1])
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


@of_model
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
    users, rows = np.unique(pairs.users, return_inverse=True)
    weighted = tastes(model, user_items, users)
    found = Collaboration(
        pairs.sample, pairs, classes, near, far,
        share_interval=_bootstrap(pairs, classes == CLASSES.index("global"), generator),
        taste=shared_taste(weighted, rows.reshape(-1, 2)),
        related=(),
    )  # fmt: skip
    names = item_titles or user_items.item_ids.to_ids(np.arange(user_items.n_items)).to_list()
    shown = related_pairs(pairs, found.most_related[:N_SHOWN], weighted, names)
    return replace(found, related=shown)


def _bootstrap(
    pairs: MeasuredPairs, chosen: np.ndarray, generator: torch.Generator
) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the share of help, users drawn with repeats."""
    known, place = np.unique(pairs.users, return_inverse=True)
    n = len(known)
    drawn = torch.randint(0, n, (N_RESAMPLES, n), generator=generator)
    times = torch.zeros(N_RESAMPLES, n).scatter_add_(1, drawn, torch.ones(N_RESAMPLES, n)).numpy()
    u, v = place.reshape(-1, 2).T
    help_ = help_of(pairs)
    of_both = np.stack([help_, help_ * chosen], axis=1)
    parts = np.array_split(times, -(-N_RESAMPLES * len(u) // RESAMPLED_AT_ONCE))
    total, of_chosen = np.concatenate([(part[:, u] * part[:, v]) @ of_both for part in parts]).T
    if not (total > 0).any():
        return float("nan"), float("nan")
    shares = of_chosen[total > 0] / total[total > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)
