"""The SQLite file that holds the trials: opened, shared between processes, errors explained."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coterie.errors import ArtifactError, MissingExtraError, StorageError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LOCK_SECONDS = 60.0  # how long to wait for another process's write, which takes milliseconds


def require_optuna() -> None:
    """Raise :class:`MissingExtraError` unless Optuna is there; keep its log to warnings."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "Tuning needs the package optuna: pip install coterie[tune]"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(path: Path) -> "RDBStorage":
    """Open or create the file, in SQLite's write-ahead mode, in which readers never wait.

    The caller makes sure that no other process creates it at the same time.

    Raises
    ------
    ArtifactError
        It is not an SQLite file of Optuna's, or damaged.
    StorageError
        It is locked for longer than ``LOCK_SECONDS``, or cannot be written.
    """
    from optuna.storages import RDBStorage

    with explained(path):
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise ArtifactError(f"{path} is damaged: {found}. Use another folder.")
        return RDBStorage(
            f"sqlite:///{path.absolute()}",
            engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}},
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the database's errors as ours, which say what to do."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        reason = _reason(error)
        if "locked" in reason or "busy" in reason:
            raise StorageError(
                f"{path} has been locked by another program for {LOCK_SECONDS:g} s; close what "
                "has it open, then run the same command again."
            ) from error
        if "unable to open" in reason or "readonly" in reason or "full" in reason:
            raise StorageError(f"{path} cannot be written: {reason}.") from error
        raise ArtifactError(
            f"{path} is damaged, or not a study of this version: {reason}. Use another folder."
        ) from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
