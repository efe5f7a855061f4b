"""Invented users and items whose taste is known: planted communities, niches and related pairs.

Each user draws a history, without repeats, from a mixture of four laws over the items: the whole
catalogue by popularity (the crowd), the user's main community, a side community, and a niche. A
niche is a small set of unpopular items from all communities, and its fans too come from all
communities. So two fans of one niche may be far apart in their histories and still be of use to
each other: the pairs that *global* collaboration is about.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
import scipy.sparse as sp
from pydantic import Field, model_validator

from coterie.config import Config
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.titles import genre_names, theme_names, titles
from coterie.errors import ConfigError

USERS_PER_BLOCK = 50_000  # bounds the memory of the draws, not of the result
NO_NICHE = -1
YEAR = 365 * 24 * 3600
START = 1_704_067_200  # 2024-01-01, seconds since 1970
FAR_QUANTILE, NEAR_QUANTILE = 0.5, 0.05  # of the L1 distance between sampled pairs
N_SAMPLED_PAIRS = 20_000


class SyntheticConfig(Config):
    """Size and structure of the invented data; the default suits a demonstration."""

    n_users: int = Field(3_000, ge=10)
    n_items: int = Field(800, ge=20)
    n_communities: int = Field(12, ge=2, description="communities of items, and of users")
    n_niches: int = Field(24, ge=1)
    niche_size: int = Field(8, ge=2, description="items in a niche")
    mean_history: float = Field(40.0, gt=0, description="items per user, on average (about)")
    min_history: int = Field(5, ge=1)
    history_sigma: float = Field(0.7, ge=0, description="spread of log(history length)")
    popularity_exponent: float = Field(0.8, ge=0, description="weight of an item = rank^-exponent")
    main_share: float = Field(0.40, ge=0, description="of the draws, from the main community")
    side_share: float = Field(0.20, ge=0, description="of the draws, from the side community")
    niche_share: float = Field(0.15, ge=0, description="of the draws, from the niche")
    n_pairs: int = Field(500, ge=0, description="far-but-related, and near pairs at most")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.main_share + self.side_share + self.niche_share >= 1:
            raise ConfigError(
                "main_share + side_share + niche_share must be below 1; the rest is the crowd's."
            )
        if 2 * self.n_niches * self.niche_size > self.n_items:
            raise ConfigError(
                f"n_niches x niche_size = {self.n_niches * self.niche_size} must be at most half "
                f"of n_items = {self.n_items}."
            )
        if self.n_communities * 4 > self.n_items:
            raise ConfigError(f"{self.n_communities} communities need 4 items each at least.")
        if not self.min_history <= self.mean_history <= self.n_items / 4:
            raise ConfigError(
                f"mean_history = {self.mean_history} must lie between min_history = "
                f"{self.min_history} and a quarter of n_items = {self.n_items}."
            )
        return self


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted, in internal indices.

    Parameters
    ----------
    user_main, user_side, user_niche
        int64 ``[U]``: the communities and the niche of each user; main and side differ.
    item_community, item_niche
        int64 ``[I]``; the niche is −1 for items in none.
    item_weight
        float64 ``[I]``, positive, sums to 1: the crowd's law.
    shares
        float64 ``[4]``, of crowd, main, side and niche; sums to 1.
    far_pairs
        int64 ``[≤ n_pairs, 2]``: users with no community in common who are fans of the same niche,
        share an item of it, and whose histories' L1 distance is above the sampled pairs' median.
    near_pairs
        int64 ``[≤ n_pairs, 2]``: users with the same main community and a distance within the
        nearest 5 % of the sampled pairs.
    """

    user_main: np.ndarray
    user_side: np.ndarray
    user_niche: np.ndarray
    item_community: np.ndarray
    item_niche: np.ndarray
    item_weight: np.ndarray
    shares: np.ndarray
    far_pairs: np.ndarray
    near_pairs: np.ndarray

    def log_probabilities(self, users: np.ndarray) -> np.ndarray:
        """Natural log of the law from which each user draws, float64 ``[B, I]``."""
        users = np.asarray(users)
        crowd, main, side, niche = self.shares
        in_community = np.bincount(self.item_community, self.item_weight)
        weight = self.item_weight
        own = weight / in_community[self.item_community]
        members = np.bincount(self.item_niche[self.item_niche >= 0])
        in_niche = self.item_niche == self.user_niche[users, None]
        law: np.ndarray = np.broadcast_to(crowd * weight, in_niche.shape).copy()
        law += main * own * (self.item_community == self.user_main[users, None])
        law += side * own * (self.item_community == self.user_side[users, None])
        law += niche / members[self.user_niche[users], None] * in_niche
        np.log(law, out=law)
        return law


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Invented interactions, with a table of titles and genres, and the truth behind them."""

    interactions: Interactions
    truth: Truth


def synthetic(config: SyntheticConfig, rng: np.random.Generator | int) -> Synthetic:
    """Invent a data set; the same seed gives the same data.

    Time and memory grow with the number of interactions, not with users times items.
    """
    source: dict[str, Any] = {"synthetic": config.model_dump()}
    if not isinstance(rng, np.random.Generator):
        source["seed"] = int(rng)  # so that the truth can be had again
    rng = np.random.default_rng(rng)
    truth = _plant(config, rng)
    table, item_ids = _item_table(config, truth, rng)
    lengths = _history_lengths(config, rng)
    urns = _Urns(truth)
    blocks = range(0, config.n_users, USERS_PER_BLOCK)
    drawn = [
        _draw(urns, np.arange(at, min(at + USERS_PER_BLOCK, config.n_users)), lengths, rng)
        for at in blocks
    ]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    interactions = Interactions(
        indptr,
        np.concatenate(drawn).astype(np.int32),
        IdMap(_names("u", config.n_users)),
        item_ids,
        timestamps=START + rng.integers(0, YEAR, indptr[-1]),
        items=table,
        name="synthetic",
        source=source,
    )
    far, near = _pairs(interactions, truth, config.n_pairs, rng)
    return Synthetic(interactions, replace(truth, far_pairs=far, near_pairs=near))


def _plant(config: SyntheticConfig, rng: np.random.Generator) -> Truth:
    n_users, n_items, n_communities = config.n_users, config.n_items, config.n_communities
    rank = np.empty(n_items, dtype=np.int64)
    rank[rng.permutation(n_items)] = np.arange(n_items)
    weight = (rank + 1.0) ** -config.popularity_exponent
    # Communities of equal size, so that none is empty; niches from the unpopular half.
    item_community = rng.permutation(np.arange(n_items) % n_communities)
    item_niche = np.full(n_items, NO_NICHE)
    unpopular = rng.permutation(np.flatnonzero(rank >= n_items // 2))
    n_in_niches = config.n_niches * config.niche_size
    item_niche[unpopular[:n_in_niches]] = np.arange(n_in_niches) % config.n_niches
    main = rng.integers(0, n_communities, n_users)
    side = (main + rng.integers(1, n_communities, n_users)) % n_communities
    planted = (config.main_share, config.side_share, config.niche_share)
    none = np.empty((0, 2), dtype=np.int64)
    return Truth(
        user_main=main,
        user_side=side,
        user_niche=rng.integers(0, config.n_niches, n_users),
        item_community=item_community,
        item_niche=item_niche,
        item_weight=weight / weight.sum(),
        shares=np.array([1 - sum(planted), *planted]),
        far_pairs=none,
        near_pairs=none,
    )


def _history_lengths(config: SyntheticConfig, rng: np.random.Generator) -> np.ndarray:
    """Log-normal above the minimum, at most a quarter of the items; int64 ``[U]``."""
    draws = np.exp(config.history_sigma * rng.standard_normal(config.n_users))
    draws *= (config.mean_history - config.min_history) / np.exp(config.history_sigma**2 / 2)
    lengths = config.min_history + np.round(draws).astype(np.int64)
    capped: np.ndarray = np.minimum(lengths, max(config.min_history, config.n_items // 4))
    return capped


class _Urns:
    """Draws items by the crowd's, a community's or a niche's law, many draws at once."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        n_communities = int(truth.item_community.max()) + 1
        by_community = np.argsort(truth.item_community, kind="stable")
        members = np.flatnonzero(truth.item_niche >= 0)
        by_niche = members[np.argsort(truth.item_niche[members], kind="stable")]
        everything = np.arange(len(truth.item_weight))
        self.items = np.concatenate([everything, by_community, by_niche])
        # Urn 0 is the crowd's, then one per community, then one per niche, end to end.
        urn = np.concatenate(
            [
                np.zeros(len(everything), dtype=np.int64),
                1 + truth.item_community[by_community],
                1 + n_communities + truth.item_niche[by_niche],
            ]
        )
        weight = np.concatenate(
            [truth.item_weight, truth.item_weight[by_community], np.ones(len(by_niche))]
        )
        self.edges = np.concatenate([[0.0], np.cumsum(weight)])
        self.starts = np.searchsorted(urn, np.arange(urn[-1] + 2))
        kinds = (np.zeros_like(truth.user_main), 1 + truth.user_main, 1 + truth.user_side)
        self.urn_of = np.stack([*kinds, 1 + n_communities + truth.user_niche], axis=1)  # [U, 4]

    def draw(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw one item for each entry of ``users``, int64 of the same length."""
        kind = np.searchsorted(np.cumsum(self.truth.shares)[:-1], rng.random(len(users)))
        urn = self.urn_of[users, kind]
        start, end = self.starts[urn], self.starts[urn + 1]
        point = self.edges[start] + rng.random(len(users)) * (self.edges[end] - self.edges[start])
        place = np.searchsorted(self.edges, point, side="right") - 1
        drawn: np.ndarray = self.items[np.clip(place, start, end - 1)]
        return drawn


def _draw(
    urns: _Urns, users: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Histories of consecutive ``users``, row by row, each row sorted; repeats are drawn again."""
    n_items, wanted = len(urns.truth.item_weight), lengths[users]
    kept = np.empty(0, dtype=np.int64)  # sorted keys: row * n_items + item
    missing = wanted
    while missing.any():
        row = np.repeat(np.arange(len(users)), missing + missing // 2 + (missing > 0))
        keys = row * n_items + urns.draw(users[row], rng)
        fresh, first = np.unique(keys, return_index=True)
        first = np.sort(first[~np.isin(fresh, kept, assume_unique=True)])  # in order of drawing
        counts = np.bincount(row[first], minlength=len(users))
        place = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = np.concatenate([kept, keys[first[place < missing[row[first]]]]])
        kept.sort()
        missing = wanted - np.bincount(kept // n_items, minlength=len(users))
    items: np.ndarray = kept % n_items
    return items


def _item_table(
    config: SyntheticConfig, truth: Truth, rng: np.random.Generator
) -> tuple[pl.DataFrame, IdMap]:
    genres = genre_names(config.n_communities)
    themes = theme_names(config.n_niches)
    names = _names("i", config.n_items)
    labels = [
        genres[community] if niche == NO_NICHE else f"{genres[community]}|{themes[niche]}"
        for community, niche in zip(
            truth.item_community.tolist(), truth.item_niche.tolist(), strict=True
        )
    ]
    table = pl.DataFrame(
        {"item_id": names, "title": titles(truth.item_community, rng), "genres": labels}
    )
    return table, IdMap(names)


def _names(letter: str, n: int) -> pl.Series:
    width = max(4, len(str(n)))
    return pl.Series("id", [f"{letter}{i:0{width}d}" for i in range(1, n + 1)])


def _pairs(
    data: Interactions, truth: Truth, n_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Far-but-related and near pairs, int64 ``[≤ n_pairs, 2]`` each."""
    matrix = data.to_scipy()
    everyone = np.zeros(data.n_users, dtype=np.int64)
    n_tried = max(N_SAMPLED_PAIRS, 20 * n_pairs)
    any_pair = _pairs_within(everyone, N_SAMPLED_PAIRS, rng)
    median, nearest = np.quantile(_distances(matrix, any_pair), [FAR_QUANTILE, NEAR_QUANTILE])
    fans = _pairs_within(truth.user_niche, n_tried, rng)
    main, side = truth.user_main[fans], truth.user_side[fans]
    strangers = (main[:, 0] != main[:, 1]) & (side[:, 0] != side[:, 1])
    strangers &= (main[:, 0] != side[:, 1]) & (side[:, 0] != main[:, 1])
    of_niche = matrix[:, truth.item_niche >= 0]
    share_one = np.asarray(of_niche[fans[:, 0]].multiply(of_niche[fans[:, 1]]).sum(axis=1)) > 0
    far = fans[strangers & share_one & (_distances(matrix, fans) > median)]
    alike = _pairs_within(truth.user_main, n_tried, rng)
    near = alike[_distances(matrix, alike) <= nearest]
    return far[:n_pairs], near[:n_pairs]


def _pairs_within(group: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``n`` distinct random pairs of users of the same group, int64 ``[≤ n, 2]``, u < v."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 2))
    first = rng.integers(0, len(group), n)
    start, end = starts[group[first]], starts[group[first] + 1]
    second = order[rng.integers(start, end)]
    pairs = np.sort(np.stack([first, second], axis=1), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    return rng.permutation(pairs)


def _distances(matrix: sp.csr_array, pairs: np.ndarray) -> np.ndarray:
    """L1 distance between the histories of each pair: n_u + n_v - 2·shared."""
    lengths = np.diff(matrix.indptr)
    left, right = matrix[pairs[:, 0]], matrix[pairs[:, 1]]
    shared = np.asarray(left.multiply(right).sum(axis=1))
    distance: np.ndarray = lengths[pairs].sum(axis=1) - 2 * shared
    return distance
