"""Files that appear whole or not at all: write aside, flush to disk, then rename."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import CoterieError, StorageError

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
    except Exception as error:
        _raise_storage_error(path, error)
        raise
    finally:
        with suppress(OSError):
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
        _raise_storage_error(path, error)
        raise
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _flush(file)
        aside.chmod(0o755)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            try:
                os.replace(aside, path)
            except OSError:
                os.replace(old, path)
                raise
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            os.replace(aside, path)
    except Exception as error:
        _raise_storage_error(path, error)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _raise_storage_error(path: Path, error: Exception) -> None:
    """Raise :class:`StorageError` if the operating system refused to write; else return."""
    if isinstance(error, CoterieError):
        return
    number = _error_number(error)
    if number in DISK_FULL:
        raise StorageError(
            f"The disk is full: {path} was not written, and nothing was left half-written. "
            "Free some space or choose another folder."
        ) from error
    if isinstance(error, OSError) or number is not None:
        reason = os.strerror(number) if number else str(error)
        raise StorageError(f"{path} could not be written: {reason}.") from error


def _error_number(error: Exception) -> int | None:
    """The operating system's error number, also where a library hides it in its message."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if hidden := re.search(r"\(os error (\d+)\)", str(error)):  # libraries written in Rust
        return int(hidden.group(1))
    if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC  # NumPy: a short write
    return None
