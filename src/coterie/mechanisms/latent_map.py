"""A map of the users' codes: the same users, seen by several models, with the same projection.

t-SNE of the posterior means (openTSNE; Poličar et al., JSS 2024). Which users are local, global or
unrelated to a reference user follows the definitions that all of coterie uses.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.data.synthetic import FAR_QUANTILE, N_SAMPLED_PAIRS, NEAR_QUANTILE
from coterie.errors import ConfigError, MissingExtraError
from coterie.evaluation.cohorts import DEFAULT_COHORTS
from coterie.mechanisms.active_units import tells_users_apart
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    Budget,
    Measurement,
    SampleSize,
    choose,
    choose_pairs,
    of_model,
    sought_among,
    with_histories,
)
from coterie.mechanisms.neighbours import nearest_codes
from coterie.mechanisms.numbers import percent
from coterie.mechanisms.style import COLLABORATION, SEQUENTIAL, new_figure
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_NEIGHBOURS = 10
N_CANDIDATES = 64  # users tried as the reference
ENOUGH = 10  # local and global users around the reference, for a map that shows both
MOST_USERS = 5_000  # more points hide each other
OPERATIONS = 6e7  # nominal, per user and model: t-SNE of 1,500 users takes about 4 s
OTHER_COHORT, OTHER_CLASS = "other", "between"
CLASS_COLORS = {OTHER_CLASS: "#D5D5D5"} | {
    name: COLLABORATION[name] for name in ("unrelated", "global", "local")
}


@dataclass(frozen=True, eq=False)
class LatentMap(Measurement):
    """Coordinates of the same users in each model's map.

    Parameters
    ----------
    sample
        Users on the map.
    perplexity
        Of t-SNE.
    user_ids, lengths
        External ids and history lengths ``[n]``.
    cohorts
        Name of each user's history-length cohort, str ``[n]``.
    classes
        ``"local"``, ``"global"``, ``"unrelated"`` or ``"between"`` (shares an item, neither near
        nor far), str ``[n]``, relative to the reference user.
    reference
        Row of the reference user, whose own class is ``"reference"``.
    coordinates
        By model, float64 ``[n, 2]``; without units, and each map is turned as it comes.
    neighbours_kept
        By model: of a user's 10 nearest in the code, the share among the 10 nearest on the map.
    neighbours_expected
        What it would be for a map at random.
    same_cohort
        By model: of a user's 10 nearest in the code, the share from the user's own cohort.
    same_cohort_expected
        What it would be if codes knew nothing of the history's length.
    collapsed
        Models without a single dimension that tells users apart.
    """

    name: ClassVar[str] = "latent_map"
    title: ClassVar[str] = "Map of the latent space"
    meaning: ClassVar[str] = (
        "Each dot is a user; users whose codes are near tend to be near on the map. Distances "
        "between groups, their sizes and the axes mean nothing. Look whether the colours mix: a "
        "model that collaborates globally has users near the reference (star) who share items with "
        "it though their histories are far apart."
    )
    method: ClassVar[str] = (
        "t-SNE (openTSNE, PCA start) of the posterior means of clean input; the same users, "
        "settings and seed for every model. Classes relative to the reference user by L1 distance "
        "of histories: local within the nearest 5 % of sampled pairs; global with a shared item "
        "above the median; unrelated without a shared item."
    )

    sample: SampleSize
    perplexity: float
    user_ids: np.ndarray
    lengths: np.ndarray
    cohorts: np.ndarray
    classes: np.ndarray
    reference: int
    coordinates: dict[str, np.ndarray]
    neighbours_kept: dict[str, float]
    neighbours_expected: float
    same_cohort: dict[str, float]
    same_cohort_expected: float
    collapsed: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Shares of neighbours, by model: ``neighbours_kept/NAME`` and ``same_cohort/NAME``."""
        found = {
            "neighbours_expected": self.neighbours_expected,
            "same_cohort_expected": self.same_cohort_expected,
        }
        for name in self.coordinates:
            found[f"neighbours_kept/{name}"] = self.neighbours_kept[name]
            found[f"same_cohort/{name}"] = self.same_cohort[name]
        return found

    def sentence(self) -> str:
        """How far to trust the maps, and whether codes go by the history's length."""
        kept = ", ".join(f"{percent(v)} ({k})" for k, v in self.neighbours_kept.items())
        alike = ", ".join(f"{percent(v)} ({k})" for k, v in self.same_cohort.items())
        return (
            f"The map shows {self.sample}. Of a user's {N_NEIGHBOURS} nearest in the code, it "
            f"keeps {kept} among the {N_NEIGHBOURS} nearest on the map (at random "
            f"{percent(self.neighbours_expected)}). In the code itself {alike} of them have a "
            f"history of similar length (at random {percent(self.same_cohort_expected)})."
        )

    def warnings(self) -> list[str]:
        """Neighbours among a sample only; maps of collapsed models."""
        found = sought_among(self.sample, "the map keeps fewer")
        return found + [
            f"No dimension of {name} tells users apart: its map shows differences far below the "
            "noise of the code."
            for name in self.collapsed
        ]

    def to_frame(self) -> pl.DataFrame:
        """One row per model and user."""
        frames = [
            pl.DataFrame(
                {
                    "model": [name] * len(at),
                    "user_id": self.user_ids,
                    "history_length": self.lengths,
                    "cohort": self.cohorts,
                    "collaboration": self.classes,
                    "x": at[:, 0],
                    "y": at[:, 1],
                }
            )
            for name, at in self.coordinates.items()
        ]
        return pl.concat(frames)

    def plot(self) -> "Figure":
        """One column per model: by history length above, by collaboration below."""
        from matplotlib import colormaps

        figure, axes = new_figure(len(self.coordinates), 2, width=4.2, height=4.0)
        names = [cohort.name for cohort in DEFAULT_COHORTS]
        shades = colormaps[SEQUENTIAL](np.linspace(0, 0.92, len(names)))
        cohort_colors = {OTHER_COHORT: "#BBBBBB"} | dict(zip(names, shades, strict=True))
        n = len(self.coordinates)
        for column, (name, at) in enumerate(self.coordinates.items()):
            above, below = axes[column], axes[n + column]
            above.set_title(name)
            _dots(above, at, self.cohorts, cohort_colors)
            _dots(below, at, self.classes, CLASS_COLORS)
            x, y = at[self.reference]
            label = f"reference ({self.lengths[self.reference]} items)"
            below.scatter(x, y, 130, color="black", marker="*", edgecolors="white", label=label)
            for axis in (above, below):
                axis.set_xlabel("t-SNE 1 (no unit)")
                axis.set_ylabel("t-SNE 2 (no unit)" if column == 0 else "")
                axis.set_xticks([])
                axis.set_yticks([])
        for last, title in ((axes[n - 1], "items in history"), (axes[-1], "to the reference")):
            last.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=1.6)
        return figure


def _dots(axis: "Axes", at: np.ndarray, names: np.ndarray, colors: Mapping[str, Any]) -> None:
    for name, color in colors.items():  # later ones on top
        x, y = at[names == name].T
        if len(x) or name in COLLABORATION:  # a class that nobody is in is worth saying
            size = 30 if name == "local" else 12  # these are few
            label = f"{name} ({len(x)})"
            axis.scatter(x, y, size, color=[color], linewidths=0, label=label, rasterized=True)


@of_model
def latent_map(
    models: Mapping[str, VAE],
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget = Budget(),  # noqa: B008 - frozen
    perplexity: float = 30,
    reference: int | None = None,
) -> LatentMap:
    """Project the posterior means of the same users under each model.

    Parameters
    ----------
    models
        By the name to show; all over the items of ``user_items``.
    user_items
        Histories; users without any are left out.
    generator
        Chooses users, pairs, and the seed that all projections share.
    budget
        Limits the users; the time is for all models together.
    perplexity
        Of t-SNE: about how many neighbours count; at least 2.
    reference
        Internal index of the user to relate the others to. By default a sampled user whose
        history's length is near the median and who has ten local and ten global others on the
        map, or as many as there are: users of median length often have no local ones at all.

    Raises
    ------
    ConfigError
        There is no model, or a setting is out of range.
    DataError
        Fewer users with a history than three times the perplexity.
    MissingExtraError
        openTSNE is not installed.
    """
    if not models or perplexity < 2:
        raise ConfigError(
            f"A map needs at least one model and a perplexity of at least 2, got {len(models)} "
            f"models and {perplexity}."
        )
    available = with_histories(user_items)
    if reference is not None and reference not in available:
        raise ConfigError(
            f"The reference user must be the index of a user with a history, got {reference}; "
            f"there are {user_items.n_users} users."
        )
    sample = _sample_size(budget, models, len(available), perplexity)
    users = choose(available, sample.used, generator)
    if reference is not None and reference not in users:
        users = np.sort(np.append(users[1:], reference))
    chosen = user_items.rows(users)
    lengths = chosen.history_lengths
    at = None if reference is None else int(np.searchsorted(users, reference))
    at, classes = _classes(chosen, at, generator)
    cohorts = _cohorts(lengths)
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    coordinates, kept, alike, collapsed = {}, {}, {}, []
    for name, model in models.items():
        posterior = encode(model, user_items, users)
        mu = posterior.mu
        if not tells_users_apart(posterior).any():
            collapsed.append(name)
        coordinates[name] = _projected(mu, perplexity, seed)
        near = nearest_codes(mu, N_NEIGHBOURS)
        nearby = nearest_codes(torch.from_numpy(coordinates[name]), N_NEIGHBOURS)
        kept[name] = float((near[:, :, None] == nearby[:, None]).any(2).mean())
        alike[name] = float((cohorts[near] == cohorts[:, None]).mean())
    counts = np.unique(cohorts, return_counts=True)[1]
    n = len(users)
    return LatentMap(
        sample,
        perplexity,
        user_ids=np.asarray(chosen.user_ids.ids),
        lengths=lengths,
        cohorts=cohorts,
        classes=classes,
        reference=at,
        coordinates=coordinates,
        neighbours_kept=kept,
        neighbours_expected=N_NEIGHBOURS / (n - 1),
        same_cohort=alike,
        same_cohort_expected=float((counts * (counts - 1)).sum() / (n * (n - 1))),
        collapsed=tuple(collapsed),
    )


def _sample_size(
    budget: Budget, models: Mapping[str, VAE], available: int, perplexity: float
) -> SampleSize:
    latent_dim = max(model.config.latent_dim for model in models.values())
    size = budget.most(
        available,
        operations=OPERATIONS * len(models),
        memory=32 * latent_dim + 64 * perplexity,
        least=max(int(3 * perplexity) + 2, N_NEIGHBOURS + 2),
        unit="users",
    )
    return SampleSize(min(size.used, MOST_USERS), available, "users")


def _cohorts(lengths: np.ndarray) -> np.ndarray:
    names = np.full(len(lengths), OTHER_COHORT, dtype=object)
    for cohort in DEFAULT_COHORTS:
        names[cohort.holds(lengths)] = cohort.name
    return names.astype(str)


def _classes(
    user_items: Interactions, reference: int | None, generator: torch.Generator
) -> tuple[int, np.ndarray]:
    """The reference, and each user's class relative to it, by L1 distances ``n_u + n_v − 2c``."""
    matrix, lengths = user_items.to_scipy(), user_items.history_lengths
    u, v = choose_pairs(user_items.n_users, N_SAMPLED_PAIRS, generator).T
    shared = np.asarray(matrix[u].multiply(matrix[v]).sum(1)).ravel()
    near, far = np.quantile(lengths[u] + lengths[v] - 2 * shared, [NEAR_QUANTILE, FAR_QUANTILE])
    candidates = np.array([reference])
    if reference is None:  # some of all lengths, the nearest to the median first
        order = np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")
        candidates = order[:: -(-len(order) // N_CANDIDATES)]
    common = np.asarray((matrix @ matrix[candidates].T).todense())  # [n, candidates]
    distance = lengths[:, None] + lengths[candidates] - 2 * common
    names = np.full(distance.shape, OTHER_CLASS, dtype=object)
    names[common == 0] = "unrelated"
    names[(common > 0) & (distance > far)] = "global"
    names[distance <= near] = "local"
    names[candidates, np.arange(len(candidates))] = "reference"
    fewest = np.minimum((names == "local").sum(0), (names == "global").sum(0))
    best = int((fewest >= min(ENOUGH, fewest.max())).argmax())
    return int(candidates[best]), names[:, best].astype(str)


def _projected(mu: Tensor, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE of codes ``[n, K]``: ``[n, 2]``; all zero if all codes are the same."""
    points = mu.double().numpy()
    if points.std(0).max() <= 1e-6 * max(1.0, np.abs(points).max()):
        return np.zeros((len(points), 2))
    if points.shape[1] < 2:  # the start needs two principal components
        points = np.pad(points, ((0, 0), (0, 1)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn and SciPy underneath: not the user's
            from openTSNE import TSNE

            fitted = TSNE(
                perplexity=perplexity,
                initialization="pca",
                neighbors="exact",
                negative_gradient_method="bh",
                n_jobs=1,
                random_state=seed,
            ).fit(points)
    except ImportError as error:
        raise MissingExtraError(
            "The map needs openTSNE: pip install 'coterie[mechanisms]'."
        ) from error
    return np.array(fitted, dtype=np.float64)
