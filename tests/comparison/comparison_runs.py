"""Fabricated runs: what models would have got, for tests of what is made of it."""

from typing import Any

import numpy as np
import polars as pl

from coterie.comparison.folder import Run
from coterie.comparison.outcome import Comparison, Question
from coterie.evaluation.cohorts import Cohort

METRICS = ("ndcg@100", "recall@20")
SHORT, LONG, NOBODY = (
    Cohort(name="5–10", low=5, high=10),
    Cohort(name="11–50", low=11, high=50),
    Cohort(name=">50", low=51),
)
IDENTITY = {
    "data": {"name": "invented & <data>", "protocol": "strong-generalization", "split_per_seed": 1},
    "precision": "fp32",
}


def run(
    name: str,
    seed: int,
    values: dict[Any, tuple[int, float]],
    *,
    best_epoch: int | None = None,
    memory: int | None = 400 << 20,
) -> Run:
    """A run from user → (history length, value); the second metric is half the first."""
    lengths, figures = zip(*values.values(), strict=True)
    users = pl.DataFrame(
        {
            "user_id": list(values),
            "history_length": np.array(lengths),
            METRICS[0]: np.array(figures),
            METRICS[1]: np.array(figures) / 2,
        }
    )
    facts = {
        "settings": {"kind": "baseline", "method": name, "options": {"l2": 500.0}},
        "seconds": {"read": 0.5, "train": 2.0 + seed, "test": 0.25},
        "epochs": None if best_epoch is None else best_epoch + 3,
        "best_epoch": best_epoch,
        "parameters": 1234,
        "peak_memory": memory,
        "peak_device_memory": None,
        "device": "cpu",
        "threads": 1,
    }
    return Run(seed, name, facts, users)


def values(seed: int, *, n: int = 30, above: float = 0.0, noise: int = 0) -> dict[Any, Any]:
    """Users of a seed, half of them the next seed's too; a third of them with long histories."""
    rng = np.random.default_rng(100 + noise * 7 + seed)
    lengths = {user: 7 if user % 3 else 20 for user in range(seed * n // 2, seed * n // 2 + n)}
    return {user: (size, float(rng.random() + above)) for user, size in lengths.items()}


def comparison(
    gains: dict[str, float],
    *,
    seeds: int = 3,
    baseline: str | None = None,
    test: str = "t",
    metrics: tuple[str, ...] = METRICS,
    users: int = 30,
) -> Comparison:
    """Models that are better than noise by so much."""
    runs = {
        name: [
            run(name, seed, values(seed, n=users, above=gain, noise=at), best_epoch=10 + seed)
            for seed in range(seeds)
        ]
        for at, (name, gain) in enumerate(gains.items())
    }
    question = Question(
        baseline=next(iter(gains)) if baseline is None else baseline,
        metrics=metrics,
        cohorts=(SHORT, LONG, NOBODY),
        test=test,  # type: ignore[arg-type]
        n_resamples=500,
    )
    return Comparison(list(gains), runs, question, IDENTITY)
