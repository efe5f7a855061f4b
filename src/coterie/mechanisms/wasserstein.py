"""How far apart the users' posteriors are, and how that follows from their histories (Lemma 2.4).

For diagonal Gaussians ``‖μ_u−μ_v‖ ≤ W1 ≤ W2 = sqrt(‖μ_u−μ_v‖² + ‖σ_u−σ_v‖²)``, in latent units: W2
is the Euclidean distance of the points ``[μ, σ]``. A point posterior is a Gaussian with σ = 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, MissingExtraError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.measurement import (
    NOMINAL_RATE,
    Budget,
    Measurement,
    SampleSize,
    choose,
    choose_pairs,
    with_histories,
)
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 4000  # of each kind: more would hardly narrow the intervals
MOST_TRANSPORTS, TRANSPORT_DRAWS = 128, 64
SPARE = 16  # candidates beyond k: two distances closer than rounding must not lose a neighbour
COLUMNS_AT_ONCE = 8192
WIDE = 64  # beyond this width products take longer than the search, so they are in float32


@dataclass(frozen=True, eq=False)
class Bracket:
    """Bounds of W1, each ``[P]``: ``lower`` ‖μ_u−μ_v‖, ``upper`` W2."""

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest users of every user, the nearest first.

    Parameters
    ----------
    indices
        int64 ``[U, k]``; ties by the lower index; nobody is their own neighbour.
    distances
        W2, float64 ``[U, k]``, in latent units.
    """

    indices: Tensor
    distances: Tensor


def deviations(posterior: Posterior) -> Tensor:
    """σ ``[B, K]``: zeros for a point posterior."""
    if posterior.logvar is None:
        return torch.zeros_like(posterior.mu)
    return torch.exp(0.5 * posterior.logvar)


def pick(posterior: Posterior, rows: np.ndarray | Tensor) -> Posterior:
    """The posteriors of the given rows, ``[len(rows), K]``."""
    logvar = posterior.logvar
    return Posterior(posterior.mu[rows], None if logvar is None else logvar[rows])


def w1_bracket(a: Posterior, b: Posterior) -> Bracket:
    """Bounds of W1 between row p of ``a`` and row p of ``b``, both ``[P, K]``; arXiv 2511.06781.

    Raises
    ------
    DataError
        The two differ in shape.
    """
    if a.mu.shape != b.mu.shape:
        raise DataError(
            f"Distances are taken row by row, between posteriors of one shape [P, K]; got "
            f"{list(a.mu.shape)} and {list(b.mu.shape)}."
        )
    lower = (a.mu - b.mu).norm(dim=1)
    return Bracket(lower, torch.hypot(lower, (deviations(a) - deviations(b)).norm(dim=1)))


def w2(a: Posterior, b: Posterior) -> Tensor:
    """W2 between row p of ``a`` and row p of ``b``, ``[P]``, in latent units."""
    return w1_bracket(a, b).upper


def w1_transport(
    posterior: Posterior, pairs: np.ndarray, n_draws: int, generator: torch.Generator
) -> Tensor:
    """Optimal-transport estimates of W1 for pairs of rows, float64 ``[P]``.

    The exact W1 between ``n_draws`` points of each posterior. Between independent draws it would
    be far too large in many dimensions, even for equal posteriors. Both posteriors therefore share
    their noise, ``μ_u + σ_u∘ε`` and ``μ_v + σ_v∘ε``, and ε comes in pairs ±ε (our derivation):
    the expectation of the estimate lies between W1 and ``E‖Δμ + Δσ∘ε‖ ≤ W2``, so the bias for
    finite samples is at most the width of the bracket; and no estimate is below ``‖Δμ‖``.

    Parameters
    ----------
    posterior
        ``[U, K]``.
    pairs
        int64 ``[P, 2]``, rows of ``posterior``.
    n_draws
        Even, at least 2. Takes ``n_draws³`` time per pair.
    generator
        For ε, new for every pair.

    Raises
    ------
    ConfigError
        ``n_draws`` is odd or below 2.
    MissingExtraError
        POT is not installed.
    """
    if n_draws < 2 or n_draws % 2:
        raise ConfigError(f"Transport needs an even number of draws, at least 2; got {n_draws}.")
    try:
        import ot
    except ImportError as error:
        raise MissingExtraError(
            "Optimal transport needs POT: pip install 'coterie[mechanisms]'."
        ) from error
    mu, sigma = posterior.mu.double().cpu(), deviations(posterior).double().cpu()
    estimates = torch.empty(len(pairs), dtype=torch.float64)
    for at, (u, v) in enumerate(pairs):
        half = torch.randn(n_draws // 2, mu.shape[1], generator=generator, dtype=torch.float64)
        noise = torch.cat([half, -half])
        costs = torch.cdist(mu[u] + sigma[u] * noise, mu[v] + sigma[v] * noise)
        estimates[at] = float(ot.emd2([], [], costs.numpy()))
    return estimates


@torch.no_grad()
def nearest_users(posterior: Posterior, k: int, *, block: int = 1024) -> Neighbours:
    """The k nearest users of every user by W2, found in blocks: no U × U matrix is built.

    Exact: candidates come from products of blocks (float32 where K > 32), and are then ordered by
    distances in float64. Where rounding could have hidden a neighbour, such as among many equal
    users, that user's distances to all others are computed (slow if there are thousands of equal
    users). Takes O(U² K) time, and memory for ``block`` × 8192 products besides the points.

    Parameters
    ----------
    posterior
        ``[U, K]``.
    k
        1 … U − 1.
    block
        Users at once.

    Raises
    ------
    ConfigError
        ``k`` or ``block`` is out of range.
    DataError
        The posterior has values that are not finite.
    """
    points = torch.cat([posterior.mu, deviations(posterior)], 1)
    n_users, width = points.shape
    if not 1 <= k < n_users:
        raise ConfigError(f"k must be 1 … {n_users - 1} for {n_users} users, got {k}.")
    if block < 1:
        raise ConfigError(f"block must be at least 1, got {block}.")
    if not points.isfinite().all():
        raise DataError("The posterior holds NaN or infinity; the model's training diverged.")
    narrow = width <= WIDE or torch.get_float32_matmul_precision() != "highest"
    centred = points.double() if narrow else points
    centred = centred - centred.mean(0)  # small values: less rounding
    squares = centred.square().sum(1)
    parts = []
    for start in range(0, n_users, block):
        rows = torch.arange(start, min(start + block, n_users), device=points.device)
        scores, found = _candidates(centred, squares, rows, min(k + SPARE, n_users - 1))
        parts.append(_settled(points, squares, width, rows, scores, found, k))
    return Neighbours(
        torch.cat([part.indices for part in parts]), torch.cat([part.distances for part in parts])
    )


def _candidates(points: Tensor, squares: Tensor, rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The ``kept`` columns of least ``‖c‖² − 2 q·c`` per row, merged block by block."""
    scores = torch.empty(len(rows), 0, dtype=points.dtype, device=points.device)
    found = torch.empty(len(rows), 0, dtype=torch.int64, device=points.device)
    for start in range(0, len(points), COLUMNS_AT_ONCE):
        columns = points[start : start + COLUMNS_AT_ONCE]
        stop = start + len(columns)
        products = torch.addmm(squares[start:stop], points[rows], columns.T, alpha=-2)
        own = (rows >= start) & (rows < stop)
        products[own, rows[own] - start] = torch.inf
        best, at = products.topk(min(kept, len(columns)), dim=1, largest=False)
        scores, found = torch.cat([scores, best], 1), torch.cat([found, at + start], 1)
        scores, order = scores.topk(min(kept, scores.shape[1]), dim=1, largest=False)
        found = found.gather(1, order)
    return scores, found


def _settled(
    points: Tensor,
    squares: Tensor,
    width: int,
    rows: Tensor,
    scores: Tensor,
    found: Tensor,
    k: int,
) -> Neighbours:
    """The k best candidates by exact distance; all users are looked at where that is not sure."""
    found = found.sort(1).values  # with a stable sort below: ties by index
    own = points[rows].double()
    distances = torch.stack([(own - points[at].double()).norm(dim=1) for at in found.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    distances, found = distances[:, :k].clone(), found.gather(1, order)[:, :k].clone()
    if scores.shape[1] < len(points) - 1:
        # Whoever is no candidate has at least the last score, up to the rounding of a product.
        norms = squares.double().sqrt()
        error = (width + 8) * torch.finfo(scores.dtype).eps * (norms[rows] + norms.max()) ** 2
        beyond = scores.amax(1).double() + squares[rows].double() - error
        for at in (distances[:, -1] ** 2 >= beyond).nonzero().ravel():
            distances[at], found[at] = _by_all(points, rows[at], k)
    return Neighbours(found, distances)


def _by_all(points: Tensor, row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    own = points[row].double()
    chunks = torch.split(points, COLUMNS_AT_ONCE)
    distances = torch.cat([(own - chunk.double()).norm(dim=1) for chunk in chunks])
    distances[row] = torch.inf
    distances, order = distances.sort(stable=True)
    return distances[:k], order[:k]


@dataclass(frozen=True, eq=False)
class SampledPairs:
    """Pairs among a sample of users, with what they are measured on.

    Parameters
    ----------
    users
        Internal indices, int64 ``[n]``, ascending.
    posterior
        Theirs, with clean input, ``[n, K]``.
    random
        Random pairs of positions in ``users``, int64 ``[P, 2]``.
    nearest
        Users and whoever of the sample is nearest to them by W2, int64 ``[≤ P, 2]``.
    """

    users: np.ndarray
    posterior: Posterior
    random: np.ndarray
    nearest: np.ndarray
    sample: SampleSize

    @property
    def both(self) -> np.ndarray:
        """The random, then the nearest pairs, int64 ``[≤ 2P, 2]``."""
        return np.concatenate([self.random, self.nearest])

    def frame(self, user_items: Interactions) -> pl.DataFrame:
        """One row per pair: users, kind, items, L1 distance of the histories, bracket of W1."""
        pairs = self.users[self.both]
        shared, lengths = shared_items(user_items, pairs), user_items.history_lengths[pairs]
        bracket = w1_bracket(*(pick(self.posterior, side) for side in self.both.T))
        return pl.DataFrame(
            {
                "user": pairs[:, 0],
                "other": pairs[:, 1],
                "kind": ["random"] * len(self.random) + ["nearest"] * len(self.nearest),
                "shared": shared,
                "l1": lengths.sum(1) - 2 * shared,
                "w1_lower": bracket.lower.double().numpy(),
                "w2": bracket.upper.double().numpy(),
            }
        )


def sample_pairs(
    model: VAE,
    user_items: Interactions,
    *,
    generator: torch.Generator,
    budget: Budget,
    operations: float,
    most: int = MOST_PAIRS,
) -> SampledPairs:
    """As many users as a third of the budget can compare with each other, and pairs of them.

    ``operations`` is what each pair costs; at most ``most`` of each kind are taken.
    """
    everyone = with_histories(user_items)
    per_other = 8 * model.config.latent_dim + 200  # the products of [μ, σ], and the search
    reach = int((budget.seconds / 3 * NOMINAL_RATE / per_other) ** 0.5)
    size = budget.share(1 / 3).most(
        len(everyone),
        operations=per_other * max(reach, 1),
        memory=64 * model.config.latent_dim,
        least=4,
        unit="users",
    )
    users = choose(everyone, size.used, generator)
    posterior = encode(model, user_items, users)
    affordable = budget.share(1 / 3).most(
        len(users) * (len(users) - 1) // 2,
        operations=2 * operations,
        memory=200,
        least=3,
        unit="pairs of users",
    )
    used = min(affordable.used, most)
    random = choose_pairs(len(users), used, generator)
    nearest = nearest_users(posterior, 1).indices[:, 0].numpy()
    nearest = np.sort(np.stack([np.arange(len(users)), nearest], 1), axis=1)
    nearest = choose(np.unique(nearest[:, 0] * len(users) + nearest[:, 1]), used, generator)
    nearest = np.stack(np.divmod(nearest, len(users)), axis=1)
    every = len(everyone) * (len(everyone) - 1) // 2
    sample = SampleSize(used, every, "pairs of users")
    return SampledPairs(users, posterior, random, nearest, sample)


def shared_items(user_items: Interactions, pairs: np.ndarray) -> np.ndarray:
    """How many items each pair of rows shares, int64 ``[P]``, by sparse products."""
    matrix, counts = user_items.to_scipy(), np.zeros(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), 1024):
        rows = pairs[start : start + 1024]
        products = matrix[rows[:, 0]].multiply(matrix[rows[:, 1]])
        counts[start : start + 1024] = products.sum(axis=1)
    return counts


def mean_error(values: np.ndarray, pairs: np.ndarray) -> float:
    """Standard error of a mean over pairs, which depend on each other where they share a user.

    ``Var = (Σ_user (Σ_{its pairs} r)² − Σ_pairs r²) / P²`` of the residuals r (Aronow, Samii and
    Assenova, Political Analysis 2015), and no less than if the pairs were independent.
    """
    residuals = values - values.mean()
    by_user = np.bincount(pairs.ravel(), np.repeat(residuals, 2))
    alone = residuals @ residuals
    return float(max(by_user @ by_user - alone, alone) ** 0.5 / len(values))


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its 95 % interval; NaN where one of the two does not vary."""

    estimate: float
    low: float
    high: float


def rank_correlation(x: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> Correlation:
    """Spearman's correlation over pairs of users.

    The interval is Fisher's, with the standard error from each pair's influence on the estimate
    and :func:`mean_error`.
    """
    n = len(x)
    a, b = ((rankdata(values) - (n + 1) / 2) / n for values in (x, y))
    scale = a.std() * b.std()
    if scale == 0:
        return Correlation(np.nan, np.nan, np.nan)
    influence = (a * b + _mean_above(x, b) + _mean_above(y, a)) / scale
    estimate = float(np.clip((a * b).mean() / scale, -1, 1))
    if abs(estimate) > 1 - 1e-9:
        return Correlation(estimate, estimate, estimate)
    width = 1.96 * mean_error(influence, pairs) / (1 - estimate**2)
    low, high = np.tanh(np.arctanh(estimate) + np.array([-width, width]))
    return Correlation(estimate, float(low), float(high))


def _mean_above(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over all j of ``values[j]`` where ``keys[j] > keys[i]``; half where they are equal."""
    _, group = np.unique(keys, return_inverse=True)
    sums = np.bincount(group, values)
    above: np.ndarray = (sums.sum() - np.cumsum(sums) + sums / 2)[group] / len(values)
    return above


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
            found[f"w2_{kind}_error"] = mean_error(values, pairs["user", "other"].to_numpy())
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
            f"In this sample two random users lie {at['w2_random']:.2f} ± "
            f"{at['w2_random_error']:.2f} apart in latent space (W2; W1 is at most "
            f"{1 - at['w1_lower_share_random']:.1%} less) and differ in "
            f"{at['l1_random']:.0f} items; nearest neighbours lie {at['w2_nearest']:.2f} ± "
            f"{at['w2_nearest_error']:.2f} apart and differ in {at['l1_nearest']:.0f}."
        )
        if np.isnan(at["rank_correlation"]):
            return f"{told} One of the two distances does not vary, so they cannot be correlated."
        size = at["rank_correlation"]
        how = "closely" if size > 0.7 else "moderately" if size > 0.3 else "hardly"
        return (
            f"{told} Latent distance follows the number of differing items {how}: rank correlation "
            f"{at['rank_correlation']:.2f} (95 % interval {at['rank_correlation_low']:.2f} to "
            f"{at['rank_correlation_high']:.2f}). Per differing item posteriors move apart by "
            f"{at['ratio_median']:.3f} at the median and up to {at['ratio_max']:.3f}, a lower "
            "bound of the encoder's Lipschitz constant."
        )

    def warnings(self) -> list[str]:
        """Neighbours among a sample only; equal histories."""
        found = []
        if self.n_users < self.n_available:
            found.append(
                f"Nearest neighbours were sought among {self.n_users:,} of {self.n_available:,} "
                "users; among all of them they are closer."
            )
        if equal := self.pairs["ratio"].null_count():
            found.append(f"{equal} pairs have equal histories and so no ratio.")
        return found

    def to_frame(self) -> pl.DataFrame:
        """``pairs``."""
        return self.pairs

    def plot(self) -> "Figure":
        """W2 against L1 by decile of L1: median and the middle 80 % of both kinds of pairs."""
        figure, (axes,) = new_figure()
        for kind, colour, marker in (("random", BLUE, "o"), ("nearest", VERMILION, "s")):
            x, low, middle, high = _by_decile(self._kind(kind))
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            label = f"{kind} pairs: median, middle 80 %"
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
