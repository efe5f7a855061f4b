"""Times EASE against NumPy's and LAPACK's own solve of the same matrix, in the same run.

    python benchmarks/ease_speed.py --items 4000 --out ease.json

ours          weights from the matrix XᵀX that is ready: what coterie.models.baselines.ease does
lapack        potrf and potri alone, in place, float32 as ours: the least that the inverse takes
numpy         numpy.linalg.inv of the same matrix; it computes in float64
whole         ours from the interactions on: XᵀX by sparse products, then the weights
field         the same as the field writes it: XᵀX by one sparse product made dense,
              numpy.linalg.inv, then the division by the diagonal

Runs alternate; medians of wall seconds over the repeats, and of ours ÷ theirs within a repeat. Give
all one number of threads by OMP_NUM_THREADS, and keep the machine quiet.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import lapack

from coterie.data.interactions import Interactions
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.models.baselines.ease import EaseConfig, fit, weights_

L2 = 500.0


def make_data(n_users: int, n_items: int) -> Interactions:
    """Users with MovieLens-20M's mean history."""
    config = SyntheticConfig(
        n_users=n_users,
        n_items=n_items,
        n_communities=40,
        n_niches=100,
        mean_history=73,
        history_sigma=1.0,
        n_pairs=0,
    )
    return synthetic(config, 0).interactions


def field(data: Interactions) -> np.ndarray:
    """EASE in five lines, as published."""
    users = data.to_scipy()
    gram = (users.T @ users).toarray()
    gram[np.diag_indices(data.n_items)] += np.float32(L2)
    inverse = np.linalg.inv(gram)
    weights: np.ndarray = inverse / -np.diag(inverse)
    weights[np.diag_indices(data.n_items)] = 0
    return weights


def inverted(matrix: np.ndarray) -> None:
    """LAPACK's two calls, in place."""
    factor, _ = lapack.spotrf(matrix.T, lower=0, clean=0, overwrite_a=1)
    lapack.spotri(factor, lower=0, overwrite_c=1)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(data: Interactions, repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each way, each repeat; a first round is not counted."""
    users = data.to_scipy()
    gram = (users.T @ users).toarray()
    regular = gram + np.float32(L2) * np.eye(data.n_items, dtype=np.float32)
    found: dict[str, list[float]] = {}
    for _ in range(repeats + 1):
        mine, theirs = gram.copy(), regular.copy()  # copying is not what is timed
        once = {
            "ours": seconds(partial(weights_, mine, L2)),
            "lapack": seconds(partial(inverted, theirs)),
            "numpy": seconds(lambda: np.linalg.inv(regular)),
            "whole": seconds(lambda: fit(data, EaseConfig(l2=L2), silent)),
            "field": seconds(lambda: field(data)),
        }
        for name, value in once.items():
            found.setdefault(name, []).append(value)
    return {name: values[1:] for name, values in found.items()}


def main() -> None:
    """Measure, check that both give the same weights, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=4_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = make_data(options.users, options.items)
    apart = np.abs(fit(data, EaseConfig(l2=L2), silent).weights.numpy() - field(data)).max()
    found = measure(data, options.repeats)
    ratios = {
        f"{ours} / {theirs}": statistics.median(
            mine / other for mine, other in zip(found[ours], found[theirs], strict=True)
        )
        for ours, theirs in (("ours", "lapack"), ("ours", "numpy"), ("whole", "field"))
    }
    result: dict[str, Any] = {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": data.nnz,
        "largest_difference": float(apart),
        "seconds": {name: statistics.median(values) for name, values in found.items()},
        "ratios": ratios,
        "repeats": options.repeats,
        "processor": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
