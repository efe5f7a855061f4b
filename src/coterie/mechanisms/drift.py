"""Whether users keep their neighbours under input masks, and how far masks move a user."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.evaluation.cohorts import DEFAULT_COHORTS
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    NOMINAL_RATE,
    Budget,
    Measurement,
    SampleSize,
    choose,
    of_model,
    sought_among,
    too_few,
    with_histories,
)
from coterie.mechanisms.neighbours import nearest_codes
from coterie.mechanisms.numbers import number, uncertain
from coterie.mechanisms.style import BLUE, SKY, VERMILION, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_BUDGET = Budget()
FEWEST_TIMES = 4  # as many users as neighbours, or overlaps are high by chance
PER_DISTANCE = 20.0  # operations to select from a row of distances, per distance
PER_WEIGHT = 10.0  # operations to read one weight of the encoder's item table


@dataclass(frozen=True, eq=False)
class Drift(Measurement):
    """How far masks change users' nearest neighbours and their posterior means.

    Parameters
    ----------
    sample
        The users, among whom neighbours are sought.
    keep_probability, k, n_masks
        ρ, neighbours per user, and mask draws.
    users
        Internal indices, int64 ``[N]``.
    lengths
        Their history lengths, int64 ``[N]``.
    from_clean, between_masks
        Drift of each user, in [0, 1], float64 ``[N]``: 1 − mean Jaccard overlap of its neighbours
        under a mask with the clean ones, and of those under two masks.
    kept
        Clean neighbours that are neighbours under a mask too, mean over masks, float64 ``[N]``.
    mask_variance
        ``tr Var_b[μ(x⊙b)]``, summed over K, unbiased over the draws, float64 ``[N]``.
    user_variance
        Squared distance of the clean mean from the users' centre times N/(N − 1), float64 ``[N]``;
        its mean is ``tr Var_u[μ]``.
    """

    name: ClassVar[str] = "drift"
    title: ClassVar[str] = "Neighbourhoods under masks"
    meaning: ClassVar[str] = (
        "In training a user is encoded from a masked history, so it meets the neighbours of the "
        "masked code. Drift is 0 if these are always the clean neighbours, and near 1 if none of "
        "them is: then help comes from changing users. The variance across masks says how far "
        "masks move a user, as a share of how far users lie apart."
    )
    method: ClassVar[str] = (
        "All users of the sample are masked at once; the k nearest by Euclidean distance between "
        "posterior means are compared with the clean ones and between draws, by 1 − Jaccard "
        "overlap. Across-mask variance: tr Var_b[μ(x⊙b)], unbiased over the draws, relative to "
        "tr Var_u[μ] of the clean means (arXiv 2511.06781, sections on masking and on "
        "Proposition 3.2; the measure is ours). Standard errors are over users."
    )
    headline: ClassVar[tuple[str, ...]] = (
        "drift",
        "drift_between_masks",
        "neighbours_kept",
        "mask_variance",
        "relative_mask_variance",
    )
    sample: SampleSize
    keep_probability: float
    k: int
    n_masks: int
    users: np.ndarray
    lengths: np.ndarray
    from_clean: np.ndarray
    between_masks: np.ndarray
    kept: np.ndarray
    mask_variance: np.ndarray
    user_variance: np.ndarray

    def figures(self) -> dict[str, float]:
        """Over all users of the sample, each with its standard error."""
        return self._summary(np.ones(len(self.users), dtype=bool))

    @cached_property
    def between_users(self) -> float:
        """``tr Var_u[μ]`` of the clean means."""
        return float(self.user_variance.mean())

    def _summary(self, inside: np.ndarray) -> dict[str, float]:
        """Means over some users (bool ``[N]``), always relative to the variance of all of them."""
        varying = self.between_users > 0
        scale = self.between_users if varying else 1.0
        relative = self.mask_variance / scale
        ratio = relative[inside].mean()
        # A ratio of means; users outside have no share in the numerator, but in the denominator.
        weights = inside / inside.mean()
        residuals = (relative - ratio) * weights
        if varying:
            residuals = residuals - ratio * (self.user_variance / scale - 1)
        found: dict[str, float] = {}
        for name, values in (
            ("drift", self.from_clean),
            ("drift_between_masks", self.between_masks),
            ("neighbours_kept", self.kept),
            ("mask_variance", self.mask_variance),
        ):
            found[name], found[f"{name}_se"] = _mean(values[inside])
        found["relative_mask_variance"] = float(ratio)
        found["relative_mask_variance_se"] = float(np.std(residuals) / np.sqrt(len(residuals)))
        return found

    def to_frame(self) -> pl.DataFrame:
        """All users, then each cohort by history length that has users."""
        groups = [("all", np.ones(len(self.users), dtype=bool))]
        groups += [(cohort.name, cohort.holds(self.lengths)) for cohort in DEFAULT_COHORTS]
        rows = [
            {"cohort": name, "users": int(inside.sum()), **self._summary(inside)}
            for name, inside in groups
            if inside.any()
        ]
        return pl.DataFrame(rows)

    def sentence(self) -> str:
        """What masks leave of the neighbourhoods, how far they move users, and where most."""
        figures = self.figures()

        def told(name: str) -> str:
            return uncertain(figures[name], figures[f"{name}_se"])

        text = (
            f"Among {self.sample}, a mask that keeps each item with probability "
            f"{self.keep_probability:g} leaves a user {told('neighbours_kept')} of the {self.k} "
            f"nearest by code of the {len(self.users):,} sampled: "
            f"drift {told('drift')} (0: the same neighbours, 1: all others), "
            f"and {told('drift_between_masks')} between two masks. Masks spread the same user by "
            f"{told('relative_mask_variance')} of the variance between users."
        )
        cohorts = self.to_frame()[1:]
        if len(cohorts) > 1:
            most, least = (cohorts.sort("drift", descending=down)[0] for down in (True, False))
            text += (
                f" By history length, drift is largest for {most['cohort'].item()} items "
                f"({number(most['drift'].item(), 3)}) and smallest for {least['cohort'].item()} "
                f"({number(least['drift'].item(), 3)})."
            )
        return text

    def warnings(self) -> list[str]:
        """What makes neighbours arbitrary, or trivial."""
        found = sought_among(self.sample, "drift is usually larger")
        if self.between_users == 0:
            found.append(
                "All users have the same posterior mean: the encoder ignores its input, and who "
                "is whose neighbour is arbitrary."
            )
        if FEWEST_TIMES * self.k > len(self.users):
            found.append(
                f"{self.k} neighbours are a large part of {len(self.users)} users: overlaps are "
                "high by chance; lower k or sample more users."
            )
        return found

    def too_small(self) -> str:
        """Neighbours that are a large part of the sample overlap by chance."""
        return too_few(len(self.users), FEWEST_TIMES * self.k, self.sample.unit)

    def plot(self) -> "Figure":
        """Drift and relative across-mask variance by cohort, ± 2 standard errors."""
        figure, (left, right) = new_figure(2, width=4.8)
        frame = self.to_frame()
        at = np.arange(len(frame))
        bars: Any = {"capsize": 3, "error_kw": {"lw": 1.2}}
        for offset, name, label, color in (
            (-0.2, "drift", "clean to masked", BLUE),
            (0.2, "drift_between_masks", "between two masks", SKY),
        ):
            errors = 2 * frame[f"{name}_se"].to_numpy()
            left.bar(at + offset, frame[name], 0.4, yerr=errors, color=color, label=label, **bars)
        left.set(ylim=(0, 1.25), yticks=np.linspace(0, 1, 6), ylabel="drift (1 − Jaccard overlap)")
        left.set_title(f"Drift of the {self.k} nearest by code")
        left.legend(loc="upper center", ncols=2, fontsize=10, columnspacing=1.0, frameon=False)
        errors = 2 * frame["relative_mask_variance_se"].to_numpy()
        right.bar(at, frame["relative_mask_variance"], 0.6, yerr=errors, color=VERMILION, **bars)
        right.set(ylabel="variance: masks ÷ users")
        right.set_title(f"Spread of one user under masks, ρ = {self.keep_probability:g}")
        labels = [f"{name}\n({n:,})" for name, n in frame.select("cohort", "users").rows()]
        for axes in (left, right):
            axes.set_xticks(at, labels, fontsize=10)
            axes.set_xlabel("items in the history (users)")
            axes.grid(axis="x", visible=False)
            axes.set_axisbelow(True)
        return figure


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, which is NaN of one value only."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


@of_model
def drift(
    model: VAE,
    user_items: Interactions,
    *,
    keep_probability: float = 0.5,
    k: int = 20,
    n_masks: int = 5,
    generator: torch.Generator,
    budget: Budget = DEFAULT_BUDGET,
) -> Drift:
    """Compare users' neighbours with and without masks, and the variance that masks bring.

    Parameters
    ----------
    model
        Any VAE of coterie, or a Multi-DAE; only the posterior means are used.
    user_items
        Whole histories over the model's items; empty ones are left out.
    keep_probability
        ρ in (0, 1], the probability to KEEP an item; at 1 all drift is exactly 0.
    k
        Nearest users that make a neighbourhood, fewer than there are users.
    n_masks
        Mask draws, at least 2.
    generator
        On the CPU: the sample of users, then the masks.
    budget
        Bounds the number of users, whose square the time grows with. Drift depends on how many
        users compete to be neighbours, so compare models on samples of one size.

    Raises
    ------
    ConfigError
        An argument is out of range, or the items are not the model's.
    DataError
        All sampled users have the same history, so that no variance between them exists.
    """
    if not 0 < keep_probability <= 1:
        raise ConfigError(f"keep_probability must be in (0, 1], got {keep_probability}.")
    if n_masks < 2:
        raise ConfigError(f"n_masks must be at least 2, to compare masks; got {n_masks}.")
    available = with_histories(user_items)
    if not 1 <= k < len(available):
        raise ConfigError(
            f"k must be at least 1 and less than the number of users with a history, which is "
            f"{len(available)}; got {k}. Lower k or pass more users."
        )
    sample = _affordable(budget, model, user_items, len(available), k, n_masks)
    users = choose(available, sample.used, generator)
    clean = encode(model, user_items, users).mu
    masked = [
        encode(model, user_items, users, keep_probability=keep_probability, generator=generator).mu
        for _ in range(n_masks)
    ]
    around = [nearest_codes(codes, k) for codes in (clean, *masked)]
    kept = np.stack([_overlap(around[0], other) for other in around[1:]])
    between = np.stack([_overlap(a, b) for a, b in combinations(around[1:], 2)])
    # Differences from one draw: equal codes then have a variance of exactly 0.
    moved = torch.stack(masked[1:] + masked[:1]) - masked[0]
    mask_variance = moved.double().var(0).sum(1).numpy()
    offsets = (clean - clean[0]).double()
    user_variance = (offsets - offsets.mean(0)).square().sum(1).numpy() * len(users)
    if user_variance.sum() == 0 and mask_variance.sum() > 0:
        raise DataError(
            f"All {len(users)} users have the same posterior mean, but masks change it: their "
            "histories are the same, so neighbours mean nothing. Pass users who differ."
        )
    return Drift(
        sample,
        keep_probability,
        k,
        n_masks,
        users,
        user_items.history_lengths[users],
        1 - (kept / (2 * k - kept)).mean(0),
        1 - (between / (2 * k - between)).mean(0),
        kept.mean(0),
        mask_variance,
        user_variance / (len(users) - 1),
    )


def _affordable(
    budget: Budget, model: VAE, user_items: Interactions, available: int, k: int, n_masks: int
) -> SampleSize:
    """As many users as the budget allows: N² distances and N encodings, for each draw."""
    K, H = model.config.latent_dim, model.decoder.table.shape[1]
    per_pair = (n_masks + 1) * (2 * K + PER_DISTANCE)
    per_user = (n_masks + 1) * PER_WEIGHT * H * (user_items.nnz / available + K)
    time = budget.seconds * NOMINAL_RATE
    largest = (np.sqrt(per_user**2 + 4 * per_pair * time) - per_user) / (2 * per_pair)
    return budget.most(
        available,
        operations=float(per_user + per_pair * largest),  # of one user, among the most affordable
        memory=(n_masks + 1) * (28 * K + 16 * k),
        least=k + 1,
        unit="users",
    )


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many of two sets of k users are the same, row by row; int64 ``[N]``."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    overlap: np.ndarray = (both[:, 1:] == both[:, :-1]).sum(1)
    return overlap
