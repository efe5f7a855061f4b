"""How experiments stand, worked out from the store in a process of its own, and kept for a while.

A log may be long, and Python answers requests in one thread at a time; a process that yields to
others leaves the server its answers' speed, gives all memory back, and can be ended when it takes
too long.
"""

import asyncio
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coterie.errors import StorageError
from coterie.experiment.settings import Experiment
from coterie.serving.lanes import RETRY_SECONDS, Lane, Observe, Overloaded
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store, StoreUnavailable

WAITING = 4  # experiments whose analysis may wait
REST = 4  # an answer is kept for so many times what it took: a fifth of a core at the most
LOOK_SECONDS = 0.2
NICENESS = 10
OFFLINE = "Analyse the log offline: coterie experiment analyze."


class TooMuch(Overloaded):
    """The log is too long for an answer while one waits."""


@dataclass(eq=False, slots=True)
class _Kept:
    task: "asyncio.Task[dict[str, Any]]"
    since: float
    until: float = math.inf


class Outcomes:
    """The latest analysis of each experiment; for the event loop's thread.

    Parameters
    ----------
    store
        Whose log is analysed.
    config
        How long it may take, how long it is kept, how many events it may read.
    observe
        As for a :class:`~coterie.serving.lanes.Lane`.
    """

    def __init__(self, store: Store, config: ServeConfig, observe: Observe) -> None:
        self._store, self._config = store, config
        self._stopping = False
        self._kept: dict[str, _Kept] = {}
        self.lane: Lane[Experiment, dict[str, Any]] = Lane(
            "experiments",
            self._work,
            batch_size=1,
            queue_size=WAITING,
            timeout=2 * config.analyze_seconds + config.timeout_seconds,
            observe=observe,
        )

    async def of(self, experiment: Experiment) -> dict[str, Any]:
        """What :func:`coterie.experiment.standing.standing` says, and when it was worked out.

        Raises
        ------
        Overloaded, StoreUnavailable
            Not now; :class:`TooMuch` if the log is too long.
        """
        kept = self._kept.get(experiment.name)
        if kept is None or time.monotonic() >= kept.until:
            task = asyncio.get_running_loop().create_task(self.lane.ask(experiment))
            kept = self._kept[experiment.name] = _Kept(task, time.monotonic())
            task.add_done_callback(lambda _: self._keep(kept))
        try:
            return await asyncio.shield(kept.task)  # others may wait for the same
        except TooMuch as error:
            left = math.ceil(kept.until - time.monotonic())  # until then this is the answer
            raise TooMuch(str(error), retry_seconds=max(left, RETRY_SECONDS)) from None

    def stop(self) -> None:
        """End what is being worked out."""
        self._stopping = True

    def _keep(self, kept: _Kept) -> None:
        now = time.monotonic()
        failed = kept.task.cancelled() or kept.task.exception()
        last = failed is None or isinstance(failed, TooMuch)
        least = max(self._config.keep_seconds, REST * (now - kept.since))
        kept.until = now + least if last else now

    def _work(self, asked: Sequence[Experiment]) -> list[dict[str, Any]]:
        """In the lane's thread."""
        return [self._apart(experiment) for experiment in asked]

    def _apart(self, experiment: Experiment) -> dict[str, Any]:
        """The result of a process that is ended when its time is up, or the server's."""
        spawn = multiprocessing.get_context("spawn")
        give_up = time.monotonic() + self._config.analyze_seconds
        with TemporaryDirectory(prefix="coterie-") as folder:
            ours, theirs = spawn.Pipe(duplex=False)
            job = (experiment, self._store.address, Path(folder), self._config, theirs)
            process = spawn.Process(target=_calculate, args=job, daemon=True)
            process.start()
            theirs.close()
            try:
                while not ours.poll(LOOK_SECONDS):
                    if self._stopping:
                        raise Overloaded("the server is stopping")
                    if time.monotonic() > give_up:
                        limit = self._config.analyze_seconds
                        raise TooMuch(f"The analysis took longer than {limit:g} s. {OFFLINE}")
                found = ours.recv()
            except EOFError:
                process.join()
                raise TooMuch(
                    f"The analysis was ended from outside (exit code {process.exitcode}), perhaps "
                    f"for lack of memory. {OFFLINE}"
                ) from None
            finally:
                process.kill()
                process.join()
                process.close()
                ours.close()
        if isinstance(found, Exception):
            raise found
        return dict(found)


def _calculate(
    experiment: Experiment, database: str, folder: Path, config: ServeConfig, answer: Connection
) -> None:
    """In the other process; what it imports costs this one nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the server's to heed
    os.nice(NICENESS)
    found: Any
    try:
        found = _standing(experiment, database, folder / "log.parquet", config)
    except (TooMuch, StoreUnavailable) as error:
        found = error
    except StorageError as error:
        found = StoreUnavailable(str(error))
    except Exception:
        found = RuntimeError(traceback.format_exc())
    answer.send(found)


def _standing(
    experiment: Experiment, database: str, file: Path, config: ServeConfig
) -> dict[str, Any]:
    """Spools the log to a file, so that memory holds a part of it only."""
    from datetime import UTC, datetime, timedelta

    import polars as pl
    import pyarrow.parquet as pq

    from coterie.experiment.standing import standing

    since = experiment.start - timedelta(days=experiment.pre_period_days)
    now, events = datetime.now(UTC), 0
    store = Store(database, seconds=config.analyze_seconds)
    try:
        parts = store.log(since, experiment.end)
        first = next(parts).to_arrow()  # the first part is always there, and empty
        with pq.ParquetWriter(file, first.schema) as written:
            written.write_table(first)
            for part in parts:
                events += len(part)
                if events > config.most_log:
                    raise TooMuch(f"The log has more than {config.most_log:,} events. {OFFLINE}")
                written.write_table(part.to_arrow())
    finally:
        store.close()
    return {"computed_at": now, **standing(pl.scan_parquet(file), experiment)}
