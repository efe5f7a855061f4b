"""What a search leaves: the best settings as a configuration file, and all trials as tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from coterie.errors import DataError
from coterie.files import atomic_file
from coterie.tuning.candidates import Candidate
from coterie.tuning.records import TrialRecord, best_of, trials_frame

TRIALS_JSON, TRIALS_TABLE, BEST = "trials.json", "trials.parquet", "best.toml"
Key = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tuned:
    """One model's finished trials.

    Parameters
    ----------
    candidate
        The model.
    records
        In the order in which they began.
    n_running
        Trials that other processes have not finished.
    """

    candidate: Candidate
    records: Sequence[TrialRecord]
    n_running: int = 0

    @property
    def best(self) -> TrialRecord:
        """The trial with the highest validation figure.

        Raises
        ------
        DataError
            No trial reached a validation.
        """
        best = best_of(self.records)
        if best is None:
            raise DataError(
                f"No trial of {self.candidate.name} reached a validation: all diverged, or the "
                "time was too short for one. Give more time, or a narrower space."
            )
        return best

    @property
    def seconds(self) -> float:
        """All trials together."""
        return sum(record.seconds for record in self.records)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = self.best
        return {
            "model": self.candidate.name,
            "metric": self.candidate.metric,
            "best": best.to_dict(),
            "trials": len(self.records),
            "pruned": sum(record.outcome == "pruned" for record in self.records),
            "seconds": round(self.seconds, 1),
        }


def best_file(folder: Path, model: str, *, alone: bool) -> Path:
    """Where a model's best settings go: ``best.toml``, or ``best-MODEL.toml`` if there are more."""
    return folder / (BEST if alone else f"best-{model}.toml")


def write_results(folder: Path, tuned: Sequence[Tuned]) -> list[Path]:
    """Write the best settings of each model, and all trials as JSON and Parquet; the paths."""
    written = []
    for one in tuned:
        path = best_file(folder, one.candidate.name, alone=len(tuned) == 1)
        with atomic_file(path) as aside:
            aside.write_text(best_settings(one), encoding="utf-8")
        written.append(path)
    everything = {
        one.candidate.name: {
            "metric": one.candidate.metric,
            "trials": [record.to_dict() for record in one.records],
        }
        for one in tuned
    }
    with atomic_file(folder / TRIALS_JSON) as aside:
        aside.write_text(json.dumps(everything, indent=1, allow_nan=False) + "\n")
    frames = [trials_frame(one.candidate.name, one.records) for one in tuned]
    with atomic_file(folder / TRIALS_TABLE) as aside:
        pl.concat(frames, how="diagonal_relaxed").write_parquet(aside)
    return [*written, folder / TRIALS_JSON, folder / TRIALS_TABLE]


def best_settings(tuned: Tuned) -> str:
    """The best trial as a configuration file for ``coterie train`` and ``coterie compare``."""
    best = tuned.best
    where = "" if best.best_epoch is None else f", epoch {best.best_epoch} of {best.epochs}"
    return (
        f"# {tuned.candidate.name}, the best of {len(tuned.records)} trials: validation "
        f"{tuned.candidate.metric} {best.value:.4f} (trial {best.number}{where}).\n"
        + to_toml(tuned.candidate.tables(best.settings))
    )


def to_toml(tables: Mapping[str, Any]) -> str:
    """Nested settings as TOML; None, which TOML lacks, as the text ``"none"`` that flags take."""
    lines: list[str] = []
    _write(lines, (), tables)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write(lines: list[str], within: Key, table: Mapping[str, Any]) -> None:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if plain and within:
        lines += ["", f"[{'.'.join(map(_key, within))}]"]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write(lines, (*within, key), value)


def _key(text: str) -> str:
    bare = text.replace("-", "").replace("_", "").isalnum() and text.isascii()
    return text if bare else _text(text)


def _text(value: str) -> str:
    """As JSON writes it, but for the one control character that JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    return _text(value)
