"""Small measured pieces of a reproduction, and what the whole is by them.

A VAE is trained for a few real steps on invented users over as many items as the data set has: a
step does not depend on how many users there are, so that the rest is multiplication. A baseline is
fitted to ever larger parts of an invented data set, until that takes long enough to be measured;
the last two parts tell how its time and memory grow. Each is a process of its own, as in the real
thing.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from coterie.comparison.contestants import BaselineContestant, Contestant, VaeContestant
from coterie.comparison.folder import ComparisonFolder, Run
from coterie.comparison.job import Job
from coterie.comparison.process import run_job
from coterie.config import merged
from coterie.data.datasets import DataSet
from coterie.data.readers import read_interactions
from coterie.errors import ConfigError
from coterie.reproduce.invented import invented
from coterie.reproduce.protocol import MOST_VALIDATED, liang_split
from coterie.reproduce.sizes import Sizes
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import StepReport

STEPS = 8  # of an epoch of the probe
HELD_OUT = 200  # users, to measure validation and test with
SMALLEST = 1 / 64  # share of the data that a baseline is first fitted to
ENOUGH_SECONDS = 3.0  # a fit that takes longer than that needs no larger one
ROWS = 200_000  # of the text file that measures reading
INDEX_BYTES = 4  # of an interaction that is trained on
FLOAT_BYTES = 4


@dataclass(frozen=True)
class ModelCost:
    """What one model costs with one seed.

    Parameters
    ----------
    name
        The model.
    epoch_seconds
        One epoch with its share of validations; None without epochs.
    epochs
        Most that it trains; patience may end it earlier.
    seconds
        Training with all of these epochs, and the test.
    peak_bytes
        Most memory that its process holds, Python and libraries included.
    how
        What was measured.
    """

    name: str
    epoch_seconds: float | None
    epochs: int | None
    seconds: float
    peak_bytes: int
    how: str


class Probe:
    """Measures models for a data set.

    Parameters
    ----------
    data, sizes
        The data set with its protocol, and how large it is.
    folder
        For what is invented.
    cuts
        Of the metrics.
    context
        Device and precision.
    """

    def __init__(
        self,
        data: DataSet,
        sizes: Sizes,
        folder: Path,
        *,
        cuts: tuple[int, ...],
        context: RunContext,
    ) -> None:
        held_out = data.protocol.held_out_users
        self._sizes, self._folder = sizes, folder
        self._cuts, self._context = cuts, context
        self._train_users = sizes.users - 2 * held_out
        self._validated = held_out or min(MOST_VALIDATED, sizes.users)
        self._tested = held_out or sizes.users
        self._runs = 0

    def cost(self, one: Contestant) -> ModelCost:
        """Of one model with one seed.

        Raises
        ------
        ConfigError
            It is trained already and costs nothing but its test.
        """
        if isinstance(one, VaeContestant):
            return self._of_vae(one)
        if isinstance(one, BaselineContestant):
            return self._of_baseline(one)
        raise ConfigError(f"{one.name} is trained already; a dry run is about training.")

    def _of_vae(self, one: VaeContestant) -> ModelCost:
        """Two sets of epochs of a few steps; the first warms up."""
        settings = one.experiment.training
        per_set = settings.epochs_per_set
        short = {"epochs": 2 * per_set, "patience": None, "evaluate_every": 1}
        values = merged(one.experiment.model_dump(), {"training": short})
        probe = one.model_copy(update={"experiment": Experiment.read(values)})
        timer = _Timer(warm_up=per_set)
        users = STEPS * settings.batch_size
        run = self._run(probe, self._split(users, 1.0), timer)
        step = float(np.mean(timer.train)) / STEPS
        steps = math.ceil(self._train_users / settings.batch_size)
        validation = float(np.mean(timer.validate)) * self._validated / HELD_OUT
        epoch = step * steps + validation / (settings.evaluate_every * per_set)
        test = run.values["seconds"]["test"] * self._tested / HELD_OUT
        return ModelCost(
            one.name,
            epoch,
            settings.epochs,
            epoch * settings.epochs + test,
            run.values["peak_memory"] + self._sizes.interactions * INDEX_BYTES,
            f"{STEPS * per_set} steps of {settings.batch_size} users, {step:.3g} s each",
        )

    def _of_baseline(self, one: BaselineContestant) -> ModelCost:
        """Ever larger parts; the growth between the last two is carried on."""
        share, found = SMALLEST, []
        while share <= 1:
            users = max(int(self._train_users * share), HELD_OUT)
            run = self._run(one, self._split(users, share))
            found.append(_Part(share, run.train_seconds, run.values))
            if run.train_seconds >= ENOUGH_SECONDS and len(found) > 2:
                break
            share *= 2
        base, before, last = found[0].peak, found[-2], found[-1]
        seconds = _carried(before.share, before.seconds, last.share, last.seconds)
        held = _carried(before.share, before.peak - base, last.share, last.peak - base)
        numbers = _carried(before.share, before.numbers, last.share, last.numbers)
        test = last.values["seconds"]["test"] * self._tested / HELD_OUT / last.share
        return ModelCost(
            one.name,
            None,
            None,
            seconds + test,
            round(base + max(held, FLOAT_BYTES * numbers)),
            f"fitted to 1/{round(1 / last.share)} of the data in {last.seconds:.3g} s",
        )

    def _split(self, users: int, items_share: float) -> Path:
        """A split with so many training users, and this share of the items."""
        everyone = users + 2 * HELD_OUT
        items = max(int(self._sizes.items * items_share), 20)
        each = min(self._sizes.interactions / self._sizes.users, items / 4)
        data = invented(everyone, items, round(each * everyone))
        path = self._folder / f"split-{users}-{items}"
        if not path.exists():
            liang_split(data, held_out_users=HELD_OUT).save(path)
        return path

    def _run(self, one: Contestant, split: Path, timer: "_Timer | None" = None) -> Run:
        self._runs += 1
        folder = ComparisonFolder(self._folder / f"run-{self._runs}")
        folder.claim({})
        job = Job(
            folder=folder.path,
            split=split,
            contestant=one,
            seed=0,
            cuts=self._cuts,
            context=self._context,
            checkpoints=False,
        )
        if not run_job(job, observer=timer):
            raise KeyboardInterrupt
        run = folder.load(0, one)
        assert run is not None, "its process ended well"
        return run


@dataclass(frozen=True)
class _Part:
    """A baseline fitted to a share of the data."""

    share: float
    seconds: float
    values: dict[str, Any]

    @property
    def peak(self) -> int:
        return int(self.values["peak_memory"])

    @property
    def numbers(self) -> int:
        """Learned or computed from the data: small fits hide them among the libraries."""
        return int(self.values["parameters"])


@dataclass
class _Timer:
    """An observer that notes how long the epochs after the warm-up took, and their validations."""

    warm_up: int
    train: list[float] = field(default_factory=list)
    validate: list[float] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    def step(self, report: StepReport) -> None:
        if report.step_in_epoch == report.steps_per_epoch and report.epoch > self.warm_up:
            self.train.append(self._lap())

    def epoch(self, record: dict[str, Any]) -> None:
        seconds = self._lap()
        if record["epoch"] > self.warm_up and any(key.startswith("validation_") for key in record):
            self.validate.append(seconds)

    def _lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _carried(share: float, low: float, larger: float, high: float) -> float:
    """The value for all of the data, by the power law through two parts, of exponent 1 to 3."""
    if low <= 0 or high <= 0:
        return max(high, 0.0) / larger
    exponent = math.log(high / low) / math.log(larger / share)
    return float(high * larger ** -min(max(exponent, 1.0), 3.0))


def read_seconds(data: DataSet, sizes: Sizes, folder: Path) -> float:
    """Reading and filtering all rows, from a file of a few that is written and read."""
    rows = min(ROWS, sizes.raw_rows)
    sample = invented(max(rows // 100, 50), 2000, rows).to_frame()["user_id", "item_id"]
    sample = sample.with_columns(rating=pl.lit(5.0), timestamp=pl.lit(10**9))
    sample.write_csv(folder / "rows.csv")
    once = data.options.model_copy(update={"min_user_items": 1, "min_item_users": 1})
    began = time.perf_counter()
    read_interactions(folder / "rows.csv", options=once)
    return (time.perf_counter() - began) / len(sample) * sizes.raw_rows


def split_bytes(data: DataSet, sizes: Sizes, folder: Path) -> int:
    """Of the split on disk, from a small one that is written."""
    users = 1000
    some = invented(users, sizes.items, round(users * sizes.interactions / sizes.users))
    split = liang_split(some, held_out_users=100)
    path = split.save(folder / "sized")
    written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    ids = sum(file.stat().st_size for file in path.rglob("items.parquet"))
    each = (written - ids) / some.nnz + sizes.extra_bytes
    times = 2 if data.is_pair else 1  # training items are the test users' fold-in, too
    return round(each * sizes.interactions * times + ids)
