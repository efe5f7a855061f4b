"""Fabricated records: what a run would have found, for tests of what is made of it."""

from typing import Any

from coterie.study.folder import RunRecord
from coterie.study.settings import Plan, StudyConfig

COHORTS = ((5, 10), (11, None))
USERS = {"a": 7, "b": 8, "c": 40, "d": 50}  # id → history length


def names(low: int, high: int | None) -> str:
    return f"{low}–{high}" if high else f">{low - 1}"


def record(
    key: str,
    seed: int,
    *,
    ndcg: float = 0.4,
    beta: float | None = None,
    by_user: dict[str, float] | None = None,
    measures: dict[str, dict[str, float]] | None = None,
) -> RunRecord:
    """A record whose users all have the same figure, unless given by user."""
    values = by_user or dict.fromkeys(USERS, ndcg)

    def metrics(inside: list[str]) -> dict[str, Any]:
        mean = sum(values[user] for user in inside) / len(inside) if inside else None
        found = {"mean": mean, "stderr": 0.01, "n": len(inside)}
        return {"ndcg@100": found, "recall_capped@20": found}

    cohorts = [
        {
            "name": names(low, high),
            "low": low,
            "high": high,
            "metrics": metrics([u for u, n in USERS.items() if low <= n <= (high or 10**9)]),
        }
        for low, high in COHORTS
    ]
    return RunRecord(
        seed,
        key,
        {
            "test": {"metrics": metrics(list(USERS)), "cohorts": cohorts},
            "per_user": {
                "user": list(USERS),
                "history_length": list(USERS.values()),
                "value": [values[user] for user in USERS],
            },
            "measures": {name: {"figures": f} for name, f in (measures or {}).items()},
            "seconds": {"train": 10.0, "test": 1.0, "measure": 2.0},
            "best_epoch": 3,
            "beta_at_best": {"beta-5": 5.0}.get(key, 0.2) if beta is None else beta,
        },
    )


def measured(
    *,
    drift: float = 0.3,
    variance: float = 1.0,
    relative: float = 0.1,
    share: float = 0.5,
    local: float = 0.1,
    active: float = 20,
    information: float = 5.0,
    curvature: float = 4.0,
    distance: float = 2.0,
) -> dict[str, dict[str, float]]:
    """Figures of the measures that the study looks at."""
    return {
        "drift": {
            "drift": drift,
            "mask_variance": variance,
            "relative_mask_variance": relative,
        },
        "collaboration": {"global_share": share, "local_share_of_help": local},
        "information": {"active_units": active, "mutual_information": information},
        "alignment_effect": {
            "curvature": curvature,
            "distance": distance,
            "mask_variance": variance,
        },
    }


def plan(**settings: Any) -> Plan:
    """A study with one β above the base and no other sweep."""
    values = {"betas": [0.2, 5.0], "rhos": [], "lambdas": [], "ablation": False, **settings}
    return Plan(StudyConfig.read(values))
