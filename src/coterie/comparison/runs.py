"""All of a comparison's runs in order, each in a process of its own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie import repeats
from coterie.comparison.contestants import Contestant
from coterie.comparison.folder import ComparisonFolder, Run
from coterie.comparison.job import Job
from coterie.comparison.process import run_job
from coterie.data.parts import Split
from coterie.errors import ConfigError, DataError
from coterie.repeats import Splits, repeat
from coterie.training.checkpoint import fingerprint
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import Observer, check_data

Watch = Callable[[Contestant, int], AbstractContextManager[Observer | None]]
"""Gives an observer of the training of one contestant with one seed."""
Step = repeats.Step[Run]


@dataclass(frozen=True)
class Field:
    """Who is compared on what.

    Parameters
    ----------
    contestants
        In the order of the table.
    seeds
        Each gives every contestant one run.
    splits
        The data of a seed.
    path
        The split's folder, if it is the same for all seeds; None: each seed has its own.
    cuts
        Of the metrics.
    """

    contestants: tuple[Contestant, ...]
    seeds: tuple[int, ...]
    splits: Splits
    path: Path | None
    cuts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("A comparison needs at least one seed (--seeds 0 1 2).")
        distinct(self.contestants)

    @property
    def runs(self) -> list[tuple[int, Contestant]]:
        """All runs: a whole seed, then the next."""
        return [(seed, one) for seed in self.seeds for one in self.contestants]

    def identity(self, context: RunContext) -> dict[str, Any]:
        """What all runs in a folder have in common: data and precision.

        The data is recognised by its split with seed 0, whichever seeds are asked for.
        """
        split = self.splits(0)
        shared, tested = (
            fingerprint(Experiment(), split.train, part, context)
            for part in (split.validation, split.test)
        )
        return {
            "data": {
                "name": split.train.name,
                "protocol": split.protocol,
                "split_per_seed": self.path is None,
                "settings": split.settings,
                "checksum": [shared["data"], tested["data"]],
            },
            "precision": shared["precision"],
        }

    def check(self) -> None:
        """Find out before the first run what would fail in one; errors as in training."""
        split = checked(self.splits(self.seeds[0]))
        for one in self.contestants:
            one.refuse(split, split_per_seed=self.path is None)


def distinct(contestants: Sequence[Contestant]) -> Sequence[Contestant]:
    """The contestants, if no two have one name; else :class:`ConfigError`."""
    names = [one.name for one in contestants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"Two models are called {twice[0]!r}; name the file or the folder differently."
        )
    return contestants


def checked(split: Split) -> Split:
    """The split, if it can be trained and tested on; else :class:`DataError`."""
    check_data(split.train, split.validation if split.validation.held_out.nnz else None)
    if split.test.held_out.nnz == 0:
        raise DataError("No test user has a held-out item; hold out more users (--test-users).")
    return split


@dataclass(frozen=True)
class RunOptions:
    """How runs are done.

    Parameters
    ----------
    context
        Device and precision.
    threads
        Of a run; None leaves that to the libraries.
    checkpoints
        Whether an interrupted training goes on where it stopped, and not from its beginning.
    watch
        Observes the training of each run.
    """

    context: RunContext
    threads: int | None = None
    checkpoints: bool = False
    watch: Watch = lambda contestant, seed: nullcontext()


def run_comparison(
    field: Field,
    folder: ComparisonFolder,
    options: RunOptions,
    *,
    progress: Callable[[Step], None] | None = None,
) -> bool:
    """Do the runs that are not done yet; True if all are, False if it was interrupted.

    Parameters
    ----------
    field
        Who is compared on what.
    folder
        Claimed for it. A run leaves a record there when it is finished, not before.
    options
        How runs are done.
    progress
        Told about each run that is finished here.

    Raises
    ------
    ConfigError
        A finished run has other settings.
    CoterieError
        A run failed; those before it are kept.
    """
    contestants = {one.key: one for one in field.contestants}
    return repeat(
        [(seed, one.key) for seed, one in field.runs],
        load=lambda seed, key: folder.load(seed, contestants[key]),
        do=lambda seed, key: _run(field, folder, seed, contestants[key], options),
        progress=progress,
    )


def _run(
    field: Field, folder: ComparisonFolder, seed: int, one: Contestant, options: RunOptions
) -> Run | None:
    split = field.path or folder.split(seed)
    if not split.exists():
        folder.keep_split(seed, checked(field.splits(seed)))
    job = Job(
        folder=folder.path,
        split=split,
        contestant=one,
        seed=seed,
        cuts=field.cuts,
        context=options.context,
        checkpoints=options.checkpoints,
    )
    with options.watch(one, seed) as observer:
        done = run_job(job, threads=options.threads, observer=observer)
    return folder.load(seed, one) if done else None
