"""What an evaluation found: per user, on average with standard errors, and by cohort."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.table import Table

from coterie.errors import ConfigError
from coterie.evaluation.cohorts import Cohort

WIDEST_GRID = 3  # cuts side by side that fit 80 columns


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its standard error (NaN below 2 users)."""

    mean: float
    stderr: float
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """Mean and standard error s/√n of per-user values ``[n]``; NaN where n is too small."""
        n = len(values)
        mean = float(np.mean(values)) if n else float("nan")
        stderr = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(mean, stderr, n)

    def __str__(self) -> str:
        return "–" if self.n == 0 else f"{self.mean:.4f} ±{self.stderr:.4f}"

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN: ``None`` instead."""
        return {"mean": _finite(self.mean), "stderr": _finite(self.stderr), "n": self.n}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of a full ranking over all items but the fold-in.

    Users without held-out items are in none of the figures; ``n_without_held_out`` tells how many.

    Parameters
    ----------
    per_user
        Metric name (``"ndcg@100"``) → float64 ``[n]``, one value per evaluated user.
    users
        int64 ``[n]``, row of each evaluated user in the data evaluated on.
    user_ids
        External ids of the same users.
    history_lengths
        int64 ``[n]``: items in the whole history, fold-in and held-out together (that is how the
        published cohorts, which begin at the protocol's minimum of 5, count).
    overall
        Metrics of all lists together (``"coverage@20"``, ``"gini@20"``, ``"novelty@20"``).
    n_users, n_without_held_out
        Users in the data, and how many of them had nothing to predict.
    ks, cohorts
        The cuts, and the groups that the results are broken down by.
    """

    per_user: dict[str, np.ndarray]
    users: np.ndarray
    user_ids: pl.Series
    history_lengths: np.ndarray
    overall: dict[str, float]
    n_users: int
    n_without_held_out: int
    ks: tuple[int, ...]
    cohorts: tuple[Cohort, ...]

    def __getitem__(self, metric: str) -> float:
        """Mean of one metric by name, for example ``evaluation["ndcg@100"]``."""
        if metric in self.overall:
            return self.overall[metric]
        return self.estimate(metric).mean

    @property
    def n_evaluated(self) -> int:
        """Users with held-out items: those the means are over."""
        return len(self.users)

    def estimate(self, metric: str, cohort: Cohort | None = None) -> Estimate:
        """Mean, standard error and number of users of one per-user metric.

        Raises
        ------
        ConfigError
            No such metric; the message names the nearest.
        """
        values = self.per_user.get(metric)
        if values is None:
            near = get_close_matches(metric, [*self.per_user, *self.overall], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(
                f"No metric {metric!r}{hint} Measured were {', '.join(self.per_user)}."
            )
        if cohort is not None:
            values = values[cohort.holds(self.history_lengths)]
        return Estimate.of(values)

    def estimates(self, cohort: Cohort | None = None) -> dict[str, Estimate]:
        """:meth:`estimate` of every per-user metric."""
        return {metric: self.estimate(metric, cohort) for metric in self.per_user}

    def to_frame(self) -> pl.DataFrame:
        """One row per evaluated user: ``user_id``, ``history_length`` and each metric."""
        columns = {"user_id": self.user_ids, "history_length": self.history_lengths}
        return pl.DataFrame({**columns, **self.per_user})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-user values, for JSON."""
        return {
            "n_users": self.n_users,
            "n_evaluated": self.n_evaluated,
            "n_without_held_out": self.n_without_held_out,
            "metrics": _as_dicts(self.estimates()),
            "overall": self.overall,
            "cohorts": [
                {**cohort.model_dump(), "metrics": _as_dicts(self.estimates(cohort))}
                for cohort in self.cohorts
            ],
        }

    def table(self) -> Table:
        """Means ± standard errors, one row per metric; at most 80 columns wide."""
        names = list(dict.fromkeys(metric.partition("@")[0] for metric in self.per_user))
        chunks = [self.ks[i : i + WIDEST_GRID] for i in range(0, len(self.ks), WIDEST_GRID)]
        table = _table(f"{self.n_evaluated} users, mean ± standard error")
        if self.n_without_held_out:
            table.caption = f"{self.n_without_held_out} users had no held-out item: left out"
        table.add_column("metric")
        for position in range(len(chunks[0])):
            table.add_column(f"@{self.ks[position]}" if len(chunks) == 1 else "", justify="right")
        overall = list(dict.fromkeys(metric.partition("@")[0] for metric in self.overall))
        for chunk in chunks:
            if len(chunks) > 1:
                table.add_row("", *(f"@{k}" for k in chunk), style="bold")
            for name in names:
                table.add_row(name, *(str(self.estimate(f"{name}@{k}")) for k in chunk))
            for name in overall:
                table.add_row(name, *(f"{self.overall[f'{name}@{k}']:.4f}        " for k in chunk))
        return table

    def cohort_table(self, metrics: tuple[str, ...] | None = None) -> Table:
        """Means ± standard errors by history length, for up to 3 metrics that fit 80 columns."""
        if metrics is None:
            metrics = (f"recall_capped@{min(self.ks)}", f"ndcg@{max(self.ks)}")
        table = _table("By history length (fold-in and held-out items)")
        table.add_column("items")
        table.add_column("users", justify="right")
        for metric in metrics:
            table.add_column(metric, justify="right")
        for cohort in self.cohorts:
            estimates = [self.estimate(metric, cohort) for metric in metrics]
            table.add_row(cohort.name, str(estimates[0].n), *map(str, estimates))
        return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)


def _as_dicts(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | int | None]]:
    return {metric: estimate.to_dict() for metric, estimate in estimates.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
