"""A comparison's folder: the split of each seed, and of each run a record and each user's values.

====================  ==========================================================
``settings.json``     data and precision: what all runs have in common
``splits/seed-0``     the split of a seed, where each seed draws its own
``runs/seed-0-ease``  ``.json``: what was trained, how long, how good;
                      ``.parquet``: each test user's metrics
====================  ==========================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from coterie.comparison.contestants import Contestant
from coterie.data.parts import Split
from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.evaluation.result import Evaluation
from coterie.files import atomic_file, sha256
from coterie.repeats import RecordFolder, differences

FORMAT, VERSION = "coterie-comparison", 1
SPLITS = "splits"


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Parameters
    ----------
    seed
        Of the run.
    name
        The contestant's.
    values
        As in its file.
    users
        One row per test user: ``user_id``, ``history_length`` and each metric.
    """

    seed: int
    name: str
    values: dict[str, Any]
    users: pl.DataFrame

    @property
    def train_seconds(self) -> float:
        """Training or fitting, validations included; without reading and testing."""
        return float(self.values["seconds"]["train"])

    @property
    def seconds(self) -> float:
        """The whole run: reading, training, testing."""
        return float(sum(self.values["seconds"].values()))

    def mean(self, metric: str) -> float:
        """Over all test users."""
        return float(self.users[metric].to_numpy().mean())


class ComparisonFolder(RecordFolder):
    """Where a comparison keeps what is finished; several processes may share it.

    Parameters
    ----------
    path
        The folder, made by :meth:`claim`.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, format_=FORMAT, version=VERSION, what="comparison")

    def split(self, seed: int) -> Path:
        """The split of a seed."""
        return self.path / SPLITS / f"seed-{seed}"

    def keep_split(self, seed: int, split: Split) -> Path:
        """Write the split of a seed, unless it is there already."""
        path = self.split(seed)
        if not path.exists():
            try:
                split.save(path)
            except StorageError:
                if not path.exists():  # else another process was faster
                    raise
        return path

    def users_file(self, seed: int, key: str) -> Path:
        """Each test user's metrics of a run."""
        return self.file(seed, key).with_suffix(".parquet")

    def save(
        self, seed: int, contestant: Contestant, evaluation: Evaluation, facts: dict[str, Any]
    ) -> None:
        """Write a finished run: the users' values first, then the record that vouches for them."""
        file = self.users_file(seed, contestant.key)
        with atomic_file(file) as aside:
            evaluation.to_frame().write_parquet(aside)
        values = {
            "name": contestant.name,
            "settings": contestant.settings(),
            "test": evaluation.to_dict(),
            "users": {"file": file.name, "sha256": sha256(file)},
            **facts,
        }
        self.write(seed, contestant.key, values)

    def finished(self, seed: int, contestant: Contestant) -> bool:
        """Whether the run is done.

        Raises
        ------
        ConfigError
            It was done with other settings of this contestant; the message names what differs.
        """
        values = self.read(seed, contestant.key)
        if values is None:
            return False
        if changed := differences(values.get("settings", {}), contestant.settings()):
            raise ConfigError(
                f"{self.path} holds a run of {contestant.name} with other settings: {changed}. "
                "Use the same settings, give the model another name, or choose another folder."
            )
        return True

    def load(self, seed: int, contestant: Contestant) -> Run | None:
        """A finished run; None if it is not done. Errors as in :meth:`finished`.

        Raises
        ------
        ArtifactError
            The users' values are damaged or of another run.
        """
        if not self.finished(seed, contestant):
            return None
        values = self.read(seed, contestant.key) or {}
        file = self.users_file(seed, contestant.key)
        try:
            if sha256(file) != values["users"]["sha256"]:
                raise ValueError("it is not what its record says")
            users = pl.read_parquet(file, glob=False)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(
                f"{file} is damaged: {error}. Delete {self.file(seed, contestant.key)}, so that "
                "the run is done again."
            ) from error
        return Run(seed, contestant.name, values, users)

    def complete_seeds(self, contestants: Sequence[Contestant]) -> list[int]:
        """The seeds of which every contestant's run is done, ascending."""
        return [
            seed for seed in self.seeds() if all(self.finished(seed, one) for one in contestants)
        ]
