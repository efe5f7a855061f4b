"""One thing done with several seeds: the data of each, and a folder with a record per finished run.

A run is known by its seed and its key, a word for what is repeated. Its record is written when it
is finished, not before, so that a command that was stopped goes on with the first run without one.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from coterie.data.parts import Split
from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.files import atomic_file

SETTINGS, RUNS, UNFINISHED = "settings.json", "runs", "unfinished"
MOST_SHOWN = 3  # differences that a message names
Splits = Callable[[int], Split]
"""The data of a seed."""
RunKey = tuple[int, str]
"""Seed and key of a run."""


class Timed(Protocol):
    """A finished run."""

    @property
    def seconds(self) -> float:
        """All of it."""


R = TypeVar("R", bound=Timed)


@dataclass(frozen=True)
class Step(Generic[R]):
    """Where one stands after a run.

    Parameters
    ----------
    record
        The run that was finished.
    done, total
        Runs finished, and asked for.
    seconds_left
        What the rest will take, each run as long as others of its key, or as the average.
    """

    record: R
    done: int
    total: int
    seconds_left: float


def repeat(
    runs: Sequence[RunKey],
    *,
    load: Callable[[int, str], R | None],
    do: Callable[[int, str], R | None],
    progress: Callable[[Step[R]], None] | None = None,
) -> bool:
    """Do the runs that are not done yet; True if all are, False if it was interrupted.

    Parameters
    ----------
    runs
        In this order.
    load
        The record of a run; None if it is not done.
    do
        Does a run and gives its record; None, or KeyboardInterrupt, if it was interrupted.
    progress
        Told about each run that is finished here.
    """
    try:
        finished = {run: record for run in runs if (record := load(*run)) is not None}
        for run in runs:
            if run in finished:
                continue
            record = load(*run)  # another process may have been here
            record = do(*run) if record is None else record
            if record is None:
                return False
            finished[run] = record
            if progress is not None:
                left = _seconds_left(runs, finished)
                progress(Step(record, len(finished), len(runs), left))
    except KeyboardInterrupt:
        return False
    return True


def _seconds_left(runs: Sequence[RunKey], finished: Mapping[RunKey, Timed]) -> float:
    average = sum(record.seconds for record in finished.values()) / len(finished)
    left = 0.0
    for run in runs:
        if run not in finished:
            same = [record.seconds for other, record in finished.items() if other[1] == run[1]]
            left += sum(same) / len(same) if same else average
    return left


class RecordFolder:
    """Where settings and records are kept; several processes may share it.

    Parameters
    ----------
    path
        The folder, made by :meth:`claim`.
    format_, version
        What :data:`SETTINGS` says it is.
    what
        The same as a word for messages.
    """

    def __init__(self, path: Path | str, *, format_: str, version: int, what: str) -> None:
        self.path = Path(path)
        self._format, self._version, self._what = format_, version, what

    def claim(self, identity: dict[str, Any]) -> None:
        """Take the folder for these settings, or find it taken for the same ones.

        Parameters
        ----------
        identity
            What all records here have in common. The seeds are no part of it, so that more can be
            added, and processes with other seeds can share the folder.

        Raises
        ------
        ConfigError
            It holds records of other settings; the message names what differs.
        StorageError
            It holds something else, or cannot be written.
        """
        identity = {"format": self._format, "version": self._version, **identity}
        file = self.path / SETTINGS
        found = self.identity()
        if found is None:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise StorageError(
                    f"{self.path} holds files, but no {self._what} of coterie ({SETTINGS}); choose "
                    "another folder."
                )
            with atomic_file(file) as aside:
                aside.write_text(json.dumps(identity, indent=2) + "\n")
            return
        if changed := differences(found, identity):
            raise ConfigError(
                f"{self.path} holds another {self._what}: {changed}. Use the same settings and "
                "data, or another folder."
            )

    def identity(self) -> dict[str, Any] | None:
        """What the folder was claimed for; None if it was not.

        Raises
        ------
        StorageError
            Its settings are of something else.
        """
        file = self.path / SETTINGS
        if not file.exists():
            return None
        found = _read(file)
        if found.get("format") != self._format or found.get("version") != self._version:
            raise StorageError(
                f"{file} is not of a {self._what} that this version of coterie can continue; "
                "choose another folder."
            )
        return found

    def write(self, seed: int, key: str, values: dict[str, Any]) -> None:
        """Write a finished run's record, whole or not at all; NaN and Inf become null."""
        values = _plain({"seed": seed, "setting": key, **values})
        with atomic_file(self.file(seed, key)) as aside:
            aside.write_text(json.dumps(values, allow_nan=False, indent=1) + "\n")

    def read(self, seed: int, key: str) -> dict[str, Any] | None:
        """A finished run's record; None if the run is not finished."""
        file = self.file(seed, key)
        if not file.exists():
            return None
        values = _read(file)
        if (values.get("seed"), values.get("setting")) != (seed, key):
            raise ArtifactError(f"{file} is of another run. Delete it, so that it is run again.")
        return values

    def seeds(self) -> list[int]:
        """The seeds of which there are records, ascending."""
        files = (self.path / RUNS).glob("seed-*.json")
        return sorted({int(file.name.split("-")[1]) for file in files})

    def file(self, seed: int, key: str) -> Path:
        """The record of a run."""
        return self.path / RUNS / f"seed-{seed}-{key}.json"

    def unfinished(self, seed: int, key: str) -> Path:
        """The checkpoints of a run, until it is finished."""
        return self.path / UNFINISHED / f"seed-{seed}-{key}"


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between stored settings and those of now, for a message; empty if nothing."""
    changed = list(_differences(there, json.loads(json.dumps(here))))
    return "; ".join(changed[:MOST_SHOWN])


def _differences(found: Any, here: Any, within: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*here, *found]):
            inner = f"{within}.{key}".removeprefix(".")
            yield from _differences(found.get(key), here.get(key), inner)
    elif found != here:
        yield f"{within} is {found!r} there and {here!r} here"


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


def _plain(value: Any) -> Any:
    """The value without what JSON lacks: NaN and Inf become null."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
