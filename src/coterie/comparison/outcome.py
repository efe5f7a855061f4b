"""What a comparison found: each figure over seeds, and its difference to the baseline, tested.

The rules:

- A model's figure is the mean of the seeds' means over test users, ± their standard deviation.
- *Over users*: a paired t-test or bootstrap of the difference user by user. A user whom several
  seeds test counts once, with the mean of its differences.
- *Over seeds*: a paired t-test of the seeds' differences, from three seeds on. It is never a
  bootstrap: a handful of values are too few to draw from.
- Both are corrected by Holm's method for the number of models that are compared with the baseline;
  not for the number of metrics and cohorts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from coterie.comparison.contestants import Contestant
from coterie.comparison.folder import ComparisonFolder, Run
from coterie.errors import ConfigError, DataError
from coterie.evaluation.cohorts import Cohort
from coterie.evaluation.significance import (
    NAN,
    PairedTest,
    differences_by_user,
    holm,
    paired_bootstrap,
    paired_t_test,
)

ENOUGH_SEEDS = 3
BOOTSTRAP_SEED = 0  # the same data, the same p


@dataclass(frozen=True)
class Question:
    """What is asked of the runs.

    Parameters
    ----------
    baseline
        Name of the contestant that the others are tested against.
    metrics
        The first is the one that tables by history length are of.
    cohorts
        Groups of test users by length of the history.
    test
        Over users: ``"t"`` or ``"bootstrap"``.
    n_resamples
        Of the bootstrap.
    """

    baseline: str
    metrics: tuple[str, ...]
    cohorts: tuple[Cohort, ...]
    test: Literal["t", "bootstrap"]
    n_resamples: int


@dataclass(frozen=True)
class Difference:
    """A model's figure minus the baseline's.

    Parameters
    ----------
    mean
        Mean over seeds.
    users, seeds
        The two tests, uncorrected.
    p_users, p_seeds
        Their p-values, corrected; NaN if there was no test.
    """

    mean: float
    users: PairedTest
    seeds: PairedTest
    p_users: float = NAN
    p_seeds: float = NAN


@dataclass(frozen=True)
class Figure:
    """A metric of a model, over all test users or a cohort.

    Parameters
    ----------
    by_seed
        Mean over the users of each seed, float64 ``[seeds]``; NaN where there are none.
    n_users
        Distinct users.
    difference
        To the baseline; None for the baseline itself.
    """

    by_seed: np.ndarray
    n_users: int
    difference: Difference | None

    @property
    def mean(self) -> float:
        """Over seeds; NaN if no seed has users."""
        found = self.by_seed[np.isfinite(self.by_seed)]
        return float(found.mean()) if len(found) else NAN

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n − 1); NaN below two."""
        found = self.by_seed[np.isfinite(self.by_seed)]
        return float(found.std(ddof=1)) if len(found) > 1 else NAN

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON (NaN where something does not exist)."""
        found: dict[str, Any] = {
            "mean": self.mean,
            "deviation": self.deviation,
            "seeds": self.by_seed.tolist(),
            "users": self.n_users,
        }
        if self.difference is not None:
            one = self.difference
            found["difference"] = {
                "mean": one.mean,
                "over_users": {**_test(one.users), "p_holm": one.p_users},
                "over_seeds": {**_test(one.seeds), "p_holm": one.p_seeds},
            }
        return found


class Comparison:
    """Finished runs of several models on the same seeds, and the answers.

    Parameters
    ----------
    names
        Of the models, in the order of the table.
    runs
        By name, of the same seeds in the same order.
    question
        What is asked.
    identity
        Data and precision, as the folder was claimed for.

    Raises
    ------
    ConfigError
        The baseline is none of the models, or a metric was not measured.
    DataError
        There are no runs, or models were tested on different users.
    """

    def __init__(
        self,
        names: Sequence[str],
        runs: dict[str, list[Run]],
        question: Question,
        identity: dict[str, Any],
    ) -> None:
        self.names, self.runs = tuple(names), runs
        self.question, self.identity = question, identity
        self.seeds = [run.seed for run in runs[self.names[0]]]
        check_baseline(question.baseline, self.names)
        _check_metrics(question.metrics, [run for each in runs.values() for run in each])
        present = [
            cohort
            for cohort in question.cohorts
            if any(cohort.holds(_lengths(run)).any() for run in runs[self.names[0]])
        ]
        self.cohorts = tuple(present)
        self._figures = {
            (metric, cohort.name if cohort else None): self._compute(metric, cohort)
            for metric in question.metrics
            for cohort in (None, *present)
        }

    @classmethod
    def read(
        cls, contestants: Sequence[Contestant], folder: ComparisonFolder, question: Question
    ) -> "Comparison":
        """From the runs of all seeds that are finished for every contestant."""
        seeds = folder.complete_seeds(contestants)
        if not seeds:
            raise DataError(f"{folder.path} holds no seed of which all models were run.")
        loaded = {one.name: [folder.load(seed, one) for seed in seeds] for one in contestants}
        runs = {name: [run for run in each if run is not None] for name, each in loaded.items()}
        return cls([one.name for one in contestants], runs, question, folder.identity() or {})

    @property
    def baseline(self) -> str:
        """Its name."""
        return self.question.baseline

    @property
    def metrics(self) -> tuple[str, ...]:
        """The leading one first."""
        return self.question.metrics

    @property
    def n_compared(self) -> int:
        """Models that are tested against the baseline: what Holm's method corrects for."""
        return len(self.names) - 1

    def figure(self, name: str, metric: str, cohort: str | None = None) -> Figure:
        """Of one model."""
        return self._figures[metric, cohort][name]

    def is_best(self, name: str, metric: str, cohort: str | None = None) -> bool:
        """Whether no model has a higher mean; False where there is none."""
        means = [figure.mean for figure in self._figures[metric, cohort].values()]
        return bool(self.figure(name, metric, cohort).mean >= np.nanmax([*means, -np.inf]))

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        question = self.question
        cohorts = [cohort.name for cohort in self.cohorts]
        return {
            "data": self.identity.get("data"),
            "precision": self.identity.get("precision"),
            "seeds": self.seeds,
            "baseline": question.baseline,
            "metrics": list(question.metrics),
            "test": question.test,
            "n_resamples": question.n_resamples if question.test == "bootstrap" else None,
            "models": [
                {
                    "name": name,
                    "settings": self.runs[name][0].values["settings"],
                    "metrics": {m: self.figure(name, m).to_dict() for m in question.metrics},
                    "cohorts": {
                        cohort: {
                            m: self.figure(name, m, cohort).to_dict() for m in question.metrics
                        }
                        for cohort in cohorts
                    },
                    "runs": [_cost(run) for run in self.runs[name]],
                }
                for name in self.names
            ],
        }

    def _compute(self, metric: str, cohort: Cohort | None) -> dict[str, Figure]:
        """The figures of all models, with p-values corrected for their number."""
        tested = {
            name: [_values(run, metric, cohort) for run in runs] for name, runs in self.runs.items()
        }
        by_seed = {
            name: np.array([values.mean() if len(values) else NAN for _, values in runs])
            for name, runs in tested.items()
        }
        baseline = self.baseline
        n_users = len(np.unique(np.concatenate([users for users, _ in tested[baseline]])))
        others = [name for name in self.names if name != baseline]
        over_users = [
            self._over_users(differences_by_user(tested[name], tested[baseline])) for name in others
        ]
        over_seeds = [_over_seeds(by_seed[name] - by_seed[baseline]) for name in others]
        p_users, p_seeds = (holm([test.p for test in tests]) for tests in (over_users, over_seeds))
        found: dict[str, Difference | None] = {baseline: None}
        for at, name in enumerate(others):
            users, seeds = over_users[at], over_seeds[at]
            found[name] = Difference(
                seeds.mean, users, seeds, float(p_users[at]), float(p_seeds[at])
            )
        return {name: Figure(by_seed[name], n_users, found[name]) for name in self.names}

    def _over_users(self, differences: np.ndarray) -> PairedTest:
        test = paired_t_test
        if self.question.test == "bootstrap":
            test = partial(
                paired_bootstrap, rng=BOOTSTRAP_SEED, n_resamples=self.question.n_resamples
            )
        return test(differences)


def check_baseline(baseline: str, names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless the baseline is one of the models."""
    if baseline not in names:
        raise ConfigError(
            f"The baseline {baseline!r} is none of the models: {', '.join(names)}. Name one of "
            "them, or add it to --models."
        )


def _check_metrics(metrics: Sequence[str], runs: Sequence[Run]) -> None:
    for run in runs:
        for metric in metrics:
            if metric not in run.users.columns:
                known = run.users.columns[2:]
                raise ConfigError(
                    f"The run of {run.name}, seed {run.seed}, did not measure {metric}; it "
                    f"measured {', '.join(known)}. Choose among these, or another folder."
                )


def _over_seeds(differences: np.ndarray) -> PairedTest:
    found = differences[np.isfinite(differences)]
    if len(found) >= ENOUGH_SEEDS:
        return paired_t_test(found)
    return PairedTest(len(found), float(found.mean()) if len(found) else NAN, NAN, NAN, NAN)


def _values(run: Run, metric: str, cohort: Cohort | None) -> tuple[np.ndarray, np.ndarray]:
    """Ids and values of the run's test users, or of those in the cohort."""
    users, values = run.users["user_id"].to_numpy(), run.users[metric].to_numpy()
    if cohort is None:
        return users, values
    inside = cohort.holds(_lengths(run))
    return users[inside], values[inside]


def _lengths(run: Run) -> np.ndarray:
    return run.users["history_length"].to_numpy()


def _test(test: PairedTest) -> dict[str, float]:
    return {"n": test.n, "mean": test.mean, "low": test.low, "high": test.high, "p": test.p}


def _cost(run: Run) -> dict[str, Any]:
    kept = ("seconds", "epochs", "best_epoch", "parameters", "peak_memory", "peak_device_memory")
    return {"seed": run.seed, **{key: run.values[key] for key in (*kept, "device", "threads")}}
