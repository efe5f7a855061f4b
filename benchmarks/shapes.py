"""Makes the two data shapes of the speed benchmark: seeded, skewed, with communities to learn.

    python benchmarks/shapes.py small /tmp/small      # 20 000 users x 8 000 items, 1.2 M
    python benchmarks/shapes.py ml20m /tmp/ml20m      # 116 000 users x 20 000 items, 8.5 M

Each user belongs to one main and one side community and also follows the crowd; an item's weight is
log-normal. A history is a sequence of draws whose repeats are dropped, which is the law of sampling
without replacement, so no score for every user-item pair is ever formed. A folder gets
`train.npz`, `val_fold_in.npz` and `val_held_out.npz` (SciPy CSR, uint8 ones, sorted indices).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """What a data set of the benchmark looks like."""

    users: int
    items: int
    interactions: int  # of the training users
    median_history: int
    popularity_sigma: float  # of the log-normal item weights
    validation_users: int = 1_000
    communities: int = 40
    min_history: int = 5
    main_share: float = 0.45  # of a user's draws that come from the main community
    side_share: float = 0.20  # ... from the side community; the rest follow the crowd
    held_out_share: float = 0.20


SHAPES = {
    "small": Shape(20_000, 8_000, 1_200_000, 33, popularity_sigma=1.5),
    "ml20m": Shape(116_000, 20_000, 8_500_000, 37, popularity_sigma=1.8),
    "tiny": Shape(1_000, 500, 30_000, 18, popularity_sigma=1.2, validation_users=100),
}


def history_lengths(shape: Shape, rng: np.random.Generator, users: int) -> IntArray:
    """Draw `users` skewed history lengths whose mean is that of the shape, each in [5, items/8]."""
    body = shape.median_history - shape.min_history
    target = round(shape.interactions * users / shape.users)
    sigma = np.sqrt(2 * np.log(max(1.01, (target / users - shape.min_history) / body)))
    draws = body * np.exp(sigma * rng.standard_normal(users))
    low, high = 0.2, 5.0
    for _ in range(60):  # bisect the scale that gives the wanted total after rounding and clipping
        scale = (low + high) / 2
        lengths = shape.min_history + np.floor(scale * draws).astype(np.int64)
        lengths = np.minimum(lengths, shape.items // 8)
        low, high = (scale, high) if lengths.sum() < target else (low, scale)
    rest = int(target - lengths.sum())
    candidates = np.flatnonzero((lengths > shape.min_history) & (lengths < shape.items // 8))
    lengths[rng.choice(candidates, abs(rest), replace=False)] += np.sign(rest)
    return np.asarray(lengths, dtype=np.int64)


class Catalogue:
    """Items with a weight and a community; draws items with replacement, many at once."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        weight = np.exp(shape.popularity_sigma * rng.standard_normal(shape.items))
        weight = 0.9 * weight / weight.sum() + 0.1 / shape.items  # no item is left without a chance
        community = rng.integers(0, shape.communities, shape.items)
        self.order = np.argsort(community, kind="stable")  # items grouped by community
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        bounds = np.searchsorted(community[self.order], np.arange(shape.communities + 1))
        self.low, self.high = self.cumulative[bounds[:-1]], self.cumulative[bounds[1:]]

    def draw(self, rng: np.random.Generator, community: IntArray) -> IntArray:
        """Draw one item for each entry of `community`; -1 stands for the whole catalogue."""
        low = np.where(community < 0, 0.0, self.low[community])
        high = np.where(community < 0, self.cumulative[-1], self.high[community])
        point = low + rng.random(len(community)) * (high - low)
        place = np.searchsorted(self.cumulative, point, side="right") - 1
        return np.asarray(self.order[np.clip(place, 0, len(self.order) - 1)])


def draw_histories(
    shape: Shape, catalogue: Catalogue, rng: np.random.Generator, lengths: IntArray
) -> sparse.csr_matrix:
    """Draw for each user `lengths[u]` distinct items, all users together, until all are full."""
    users, items = len(lengths), shape.items
    main = rng.integers(0, shape.communities, users)
    side = rng.integers(0, shape.communities, users)
    kept = np.empty(0, dtype=np.int64)  # sorted keys user * items + item
    missing = lengths.copy()
    while missing.any():
        # Each round draws half as many again as are missing; long histories need several rounds.
        row = np.repeat(np.arange(users), missing + missing // 2 + (missing > 0))
        choice = rng.random(len(row))
        community = np.where(choice < shape.main_share, main[row], side[row])
        community[choice >= shape.main_share + shape.side_share] = -1
        keys = row * items + catalogue.draw(rng, community)
        fresh, first = np.unique(keys, return_index=True)  # the first of equal draws counts
        first = first[~np.isin(fresh, kept, assume_unique=True)]
        first.sort()  # back in the order of drawing, so that cutting at the length is unbiased
        counts = np.bincount(row[first], minlength=users)
        rank = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = first[rank < missing[row[first]]]
        kept = np.sort(np.concatenate([kept, keys[first]]))
        missing = lengths - np.bincount(kept // items, minlength=users)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.ones(len(kept), dtype=np.uint8)
    return sparse.csr_matrix((data, (kept % items).astype(np.int32), indptr), (users, items))


def cover_all_items(matrix: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Give each item that nobody has to one holder of the top item, in its place.

    Libraries that build their item ids from the interactions then all see the same item count.
    """
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    absent = np.flatnonzero(counts == 0)
    holders = np.flatnonzero(matrix.indices == counts.argmax())
    matrix.indices[rng.choice(holders, len(absent), replace=False)] = absent
    matrix.sort_indices()
    return matrix


def split(
    matrix: sparse.csr_matrix, rng: np.random.Generator, share: float
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split each row at random into fold-in and held-out items (`share` of them, at least one)."""
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(matrix.shape[0]), lengths)
    shuffled = np.lexsort((rng.random(matrix.nnz), row))  # random order inside each row
    rank = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    held = rank < np.repeat(np.maximum(1, (share * lengths).astype(np.int64)), lengths)

    def part(mask: NDArray[np.bool_]) -> sparse.csr_matrix:
        columns = matrix.indices[shuffled[mask]]
        ones = np.ones(len(columns), dtype=np.uint8)
        result = sparse.csr_matrix((ones, (row[mask], columns)), matrix.shape)
        result.sort_indices()
        return result

    return part(~held), part(held)


def make(shape: Shape, folder: Path, seed: int) -> None:
    """Write one data set of the given shape into `folder`; the same seed gives the same files."""
    rng = np.random.default_rng(seed)
    catalogue = Catalogue(shape, rng)
    lengths = history_lengths(shape, rng, shape.users)
    train = cover_all_items(draw_histories(shape, catalogue, rng, lengths), rng)
    lengths = history_lengths(shape, rng, shape.validation_users)
    validation = draw_histories(shape, catalogue, rng, lengths)
    fold_in, held_out = split(validation, rng, shape.held_out_share)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": train, "val_fold_in": fold_in, "val_held_out": held_out}
    for name, part in parts.items():
        sparse.save_npz(folder / f"{name}.npz", part, compressed=False)


def describe(matrix: sparse.csr_matrix) -> str:
    """One line with the size and the skew of a matrix."""
    lengths, counts = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
    return (
        f"{matrix.shape[0]} users x {matrix.shape[1]} items, {matrix.nnz} interactions; history "
        f"min {lengths.min()} median {np.median(lengths):.0f} max {lengths.max()}; item count "
        f"min {counts.min()} median {np.median(counts):.0f} max {counts.max()}"
    )


def main() -> None:
    """Read the command line and write one data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    make(SHAPES[arguments.shape], arguments.folder, arguments.seed)
    for name in ("train", "val_fold_in", "val_held_out"):
        print(f"{name}: {describe(sparse.load_npz(arguments.folder / f'{name}.npz'))}")
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
