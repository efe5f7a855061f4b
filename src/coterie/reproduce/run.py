"""A reproduction: read and split as the literature, train, test, compare with its figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.comparison.contestants import Contestant
from coterie.comparison.folder import ComparisonFolder, Run
from coterie.comparison.runs import Field, RunOptions, Step, run_comparison
from coterie.data.datasets import DataSet
from coterie.data.parts import Split
from coterie.data.prepare import Progress
from coterie.errors import ConfigError, DataError, StorageError
from coterie.reproduce.protocol import literature_split
from coterie.reproduce.published import metrics_of

SPLIT, RUNS = "split", "runs"
CUTS = (20, 50, 100)


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Finished runs of each model.

    Parameters
    ----------
    data
        The data set.
    split
        What was trained and tested on.
    runs
        By model, one run for each seed.
    """

    data: DataSet
    split: Split
    runs: dict[str, list[Run]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those in which the data set's results are reported."""
        return metrics_of(self.data.name)

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return [run.seed for run in next(iter(self.runs.values()))]


def prepared(
    data: DataSet,
    raw: Path | None,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> Split:
    """The literature's split, from ``folder`` if it is there, else from the raw files.

    Raises
    ------
    ConfigError
        There is no split yet, and no raw files are named.
    DataError
        The raw files are not the data set's; or the folder holds another one's.
    StorageError
        The folder holds something else.
    """
    path = folder / SPLIT
    if path.exists():
        split = Split.open(path, verify=True)
        if split.train.name.removesuffix("-train") != data.name:
            raise DataError(
                f"{path} is of {split.train.name}, not of {data.name}; choose another folder."
            )
        return split
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} holds something else; choose another folder.")
    if raw is None:
        raise ConfigError(
            f"Where are the files of {data.title}? Name them (--raw), or fetch them (--download)."
        )
    literature_split(data, raw, progress=progress).check().save(path)
    return Split.open(path, verify=True)


def reproduce(
    data: DataSet,
    split: Split,
    contestants: Sequence[Contestant],
    folder: Path,
    *,
    seeds: Sequence[int],
    options: RunOptions,
    progress: Callable[[Step], None] | None = None,
) -> Reproduction | None:
    """Do what is not done yet of a reproduction; None if it was interrupted.

    Parameters
    ----------
    data
        The data set with its protocol; ``dataclasses.replace`` scales it for a trial on less.
    split
        Of :func:`prepared`.
    contestants
        The models.
    folder
        The folder of ``split``; gets a record of each finished run.
    seeds
        Each trains every model once, on the same split.
    options, progress
        As in :func:`coterie.comparison.runs.run_comparison`.

    Raises
    ------
    CoterieError
        As :func:`coterie.comparison.runs.run_comparison` does.
    """
    entries = Field(
        tuple(contestants), tuple(seeds), lambda seed: split, (folder / SPLIT).resolve(), CUTS
    )
    entries.check()
    records = ComparisonFolder(folder / RUNS)
    records.claim(entries.identity(options.context))
    if not run_comparison(entries, records, options, progress=progress):
        return None
    runs = {
        one.name: [run for seed in seeds if (run := records.load(seed, one))] for one in contestants
    }
    return Reproduction(data, split, runs)
