"""Files that appear whole or not at all: write aside, flush to disk, then rename."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coterie.errors import StorageError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        _flush(aside)
        os.replace(aside, path)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it becomes ``path``.

    Raises
    ------
    StorageError
        ``path`` exists and ``overwrite`` is false, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise StorageError(
            f"{path} exists already; choose another path, or allow overwriting it (--overwrite)."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise _storage_error(path, error) from error
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        aside.chmod(0o755)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            os.replace(aside, path)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _storage_error(path: Path, error: OSError) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if error.errno in DISK_FULL:
        return StorageError(
            f"The disk is full: {path} was not written, and nothing was left half-written. "
            "Free some space or choose another folder."
        )
    return StorageError(f"{path} could not be written: {error.strerror or error}.")
