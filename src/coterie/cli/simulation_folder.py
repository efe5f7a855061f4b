"""The folder of a simulation: written aside, then put in the place of an earlier one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import CoterieError, StorageError
from coterie.experiment.settings import read_experiment
from coterie.experiment.simulation.server import LOG, STORE

EXPERIMENT, EVENTS = "experiment.toml", "events.parquet"
WRITTEN = (EXPERIMENT, EVENTS, LOG, STORE, f"{STORE}-wal", f"{STORE}-shm")
"""In the order in which they take their places: the mark first."""
MARK = "# Written by coterie experiment simulate.\n"
"""How ``experiment.toml`` begins: what lies beside it may be overwritten."""


@contextmanager
def simulation_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder inside ``out``; on success its files are moved to ``out``.

    Of an earlier simulation nothing is touched before that, and nothing else in ``out`` ever. If
    the work fails, ``out`` is as it was.

    Raises
    ------
    StorageError
        ``out`` cannot be written, or :func:`check_free` refuses it.
    """
    check_free(out, overwrite=overwrite)
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".simulation.", suffix=".part", dir=out))
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}.") from error
    try:
        yield aside
        check_free(out, overwrite=overwrite)  # one may have appeared in the meantime
        _move(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if new:
            with suppress(OSError):  # it holds what was moved
                out.rmdir()


def check_free(out: Path, *, overwrite: bool) -> None:
    """Before any work: raise unless a simulation can be put there without loss.

    Raises
    ------
    StorageError
        ``out`` is a file; holds a simulation, and ``overwrite`` is false; or holds files of its
        names that no simulation wrote.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; --out names a folder.")
    there = [name for name in WRITTEN if os.path.lexists(out / name)]
    if there and not _is_ours(out):
        raise StorageError(
            f"{out} holds {', '.join(there)}, but no {EXPERIMENT} that a simulation wrote; they "
            "are not overwritten. Choose another --out."
        )
    if there and not overwrite:
        raise StorageError(
            f"{out} holds a simulation already; choose another --out, or --overwrite it."
        )


def files_in(out: Path) -> list[Path]:
    """The files of the simulation in a folder."""
    return [out / name for name in WRITTEN if (out / name).exists()]


def _is_ours(out: Path) -> bool:
    """Whether the mark is there, with an experiment that can be read."""
    file = out / EXPERIMENT
    try:
        read_experiment(file)
        return file.read_text(encoding="utf-8").startswith(MARK)
    except (CoterieError, OSError, ValueError):
        return False


def _move(aside: Path, out: Path) -> None:
    try:
        for name in WRITTEN:
            if (aside / name).exists():
                os.replace(aside / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{out} could not be written: {error.strerror}.") from error
