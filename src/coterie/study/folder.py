"""A study's folder: what it is a study of, and one record per finished run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.repeats import RecordFolder

FORMAT, VERSION = "coterie-study", 1
MODELS = "models"
NAN = float("nan")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run: a setting, a seed, and what was found.

    Parameters
    ----------
    seed, key
        Which run it is.
    values
        As in its file: ``test`` (means by metric and cohort), ``per_user``, ``measures``,
        ``seconds``, ``best_epoch``, ``beta_at_best``.
    """

    seed: int
    key: str
    values: dict[str, Any]

    def metric(self, name: str, cohort: str | None = None) -> float:
        """Mean of a test metric over all test users or those of a cohort; NaN if there are none."""
        return self._estimate(name, cohort, "mean")

    def cohort_size(self, cohort: str, metric: str) -> int:
        """Evaluated test users of a cohort."""
        return int(self._estimate(metric, cohort, "n"))

    def _estimate(self, name: str, cohort: str | None, what: str) -> float:
        test = self.values["test"]
        found = next((c for c in test["cohorts"] if c["name"] == cohort), test)
        return _number(found["metrics"][name][what])

    @property
    def cohorts(self) -> list[str]:
        """Names of the groups of users by history length."""
        return [cohort["name"] for cohort in self.values["test"]["cohorts"]]

    def figure(self, measure: str, name: str) -> float:
        """A measure's headline figure; NaN if it was not measured."""
        figures = self.values["measures"].get(measure, {}).get("figures", {})
        return _number(figures.get(name))

    def users(self, cohort: str | None = None) -> dict[Any, float]:
        """External id → the user's metric, of all evaluated test users or those of a cohort."""
        per_user = self.values["per_user"]
        inside = np.ones(len(per_user["user"]), dtype=bool)
        for group in self.values["test"]["cohorts"]:
            if group["name"] == cohort:
                lengths = np.array(per_user["history_length"])
                inside = (lengths >= group["low"]) & (lengths <= (group["high"] or math.inf))
        rows = zip(per_user["user"], per_user["value"], inside.tolist(), strict=True)
        return {user: value for user, value, holds in rows if holds}

    @property
    def beta(self) -> float:
        """β in the epoch that was chosen; below the cap if that came before the ramp's end."""
        return _number(self.values.get("beta_at_best"))

    @property
    def seconds(self) -> float:
        """Training, testing and measuring together."""
        return float(sum(self.values["seconds"].values()))


class StudyFolder(RecordFolder):
    """Where a study keeps its settings, records and models; several processes may share it.

    Parameters
    ----------
    path
        The folder, made by :meth:`claim`.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, format_=FORMAT, version=VERSION, what="study")

    def save(self, record: RunRecord) -> None:
        """Write a finished run's record, whole or not at all."""
        self.write(record.seed, record.key, record.values)

    def load(self, seed: int, key: str) -> RunRecord | None:
        """A finished run's record; None if the run is not finished."""
        values = self.read(seed, key)
        return None if values is None else RunRecord(seed, key, values)

    def finished(self, keys: Iterable[str]) -> list[RunRecord]:
        """All records of the seeds of which every one of these settings has been run."""
        keys = list(keys)
        records: list[RunRecord] = []
        for seed in self.seeds():
            found = [self.load(seed, key) for key in keys]
            if all(found):
                records += [record for record in found if record]
        return records

    def model(self, seed: int, key: str) -> Path:
        """The model's folder of a run of a main setting."""
        return self.path / MODELS / f"seed-{seed}-{key}"


def _number(value: Any) -> float:
    return NAN if value is None else float(value)
