"""A study's folder: what it is a study of, and one record per finished run."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.files import atomic_file

FORMAT, VERSION = "coterie-study", 1
SETTINGS, RUNS, MODELS, UNFINISHED = "settings.json", "runs", "models", "unfinished"
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


class StudyFolder:
    """Where a study keeps its settings, records and models; several processes may share it.

    Parameters
    ----------
    path
        The folder, made by :meth:`claim`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def claim(self, identity: dict[str, Any]) -> None:
        """Take the folder for this study, or find it taken for the same one.

        Parameters
        ----------
        identity
            Settings, data, precision: what all records here have in common. The seeds are no part
            of it, so that more can be added, and processes with other seeds can share the folder.

        Raises
        ------
        ConfigError
            It holds another study; the message names what differs.
        StorageError
            It holds something else, or cannot be written.
        """
        identity = {"format": FORMAT, "version": VERSION, **identity}
        file = self.path / SETTINGS
        found = self.identity()
        if found is None:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise StorageError(
                    f"{self.path} holds files, but no study of coterie ({SETTINGS}); choose "
                    "another folder."
                )
            with atomic_file(file) as aside:
                aside.write_text(json.dumps(identity, indent=2) + "\n")
            return
        here = json.loads(json.dumps(identity))
        if differences := list(_differences(found, here)):
            shown = "; ".join(differences[:3])
            raise ConfigError(
                f"{self.path} holds another study: {shown}. Use the same settings and data, or "
                "another folder."
            )

    def identity(self) -> dict[str, Any] | None:
        """What the folder was claimed for; None if it was not.

        Raises
        ------
        StorageError
            Its settings are not a study's.
        """
        file = self.path / SETTINGS
        if not file.exists():
            return None
        found = _read(file)
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            raise StorageError(
                f"{file} is not of a study that this version of coterie can continue; choose "
                "another folder."
            )
        return found

    def save(self, record: RunRecord) -> None:
        """Write a finished run's record, whole or not at all."""
        values = {"seed": record.seed, "setting": record.key, **record.values}
        with atomic_file(self.file(record.seed, record.key)) as aside:
            aside.write_text(json.dumps(_plain(values), allow_nan=False, indent=1) + "\n")

    def load(self, seed: int, key: str) -> RunRecord | None:
        """A finished run's record; None if the run is not finished."""
        file = self.file(seed, key)
        if not file.exists():
            return None
        values = _read(file)
        if (values.get("seed"), values.get("setting")) != (seed, key):
            raise ArtifactError(f"{file} is of another run. Delete it, so that it is run again.")
        return RunRecord(seed, key, values)

    def finished(self, keys: Iterable[str]) -> list[RunRecord]:
        """All records of the seeds of which every one of these settings has been run."""
        keys = list(keys)
        seeds = {int(file.name.split("-")[1]) for file in (self.path / RUNS).glob("seed-*.json")}
        records: list[RunRecord] = []
        for seed in sorted(seeds):
            found = [self.load(seed, key) for key in keys]
            if all(found):
                records += [record for record in found if record]
        return records

    def file(self, seed: int, key: str) -> Path:
        """The record of a run."""
        return self.path / RUNS / f"seed-{seed}-{key}.json"

    def model(self, seed: int, key: str) -> Path:
        """The model's folder of a run of a main setting."""
        return self.path / MODELS / f"seed-{seed}-{key}"

    def unfinished(self, seed: int, key: str) -> Path:
        """The checkpoints of a run, until it is finished."""
        return self.path / UNFINISHED / f"seed-{seed}-{key}"


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {type(values).__name__}")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{file} is damaged: {error}. Delete it, so that it is written again."
        ) from error
    return values


def _differences(found: Any, here: Any, within: str = "") -> Iterable[str]:
    if isinstance(found, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*here, *found]):
            inner = f"{within}.{key}".removeprefix(".")
            yield from _differences(found.get(key), here.get(key), inner)
    elif found != here:
        yield f"{within} is {found!r} there and {here!r} here"


def _number(value: Any) -> float:
    return NAN if value is None else float(value)


def _plain(value: Any) -> Any:
    """The value without what JSON lacks: NaN and Inf become null."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
