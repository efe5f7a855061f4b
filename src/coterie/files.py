"""Files that appear whole or not at all: write aside, flush to disk, then rename."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import CoterieError, StorageError

MANIFEST = "manifest.json"
"""In every folder that coterie writes; see :mod:`coterie.manifest`."""

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
        flush(aside)
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

    Only a folder that coterie wrote, or an empty one, is ever replaced. Symbolic links are followed
    first: what they point to is replaced, and they stay.

    Raises
    ------
    StorageError
        ``path`` exists and ``overwrite`` is false, it is not coterie's to replace, or the disk is
        full; nothing is left behind.
    """
    target = free_folder(path, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        _raise_storage_error(target, error)
        raise
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                flush(file)
        aside.chmod(0o755)
        free_folder(target, overwrite=overwrite)  # it may have appeared in the meantime
        _swap(aside, target)
    except Exception as error:
        _raise_storage_error(target, error)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise :class:`StorageError` if ``path`` exists and ``overwrite`` is false."""
    if path.exists() and not overwrite:
        raise StorageError(
            f"{path} exists already; choose another path, or allow overwriting it (--overwrite)."
        )


def free_folder(path: Path | str, *, overwrite: bool) -> Path:
    """Where a folder is to be written: ``path`` with links followed, if it is free for that.

    Also for a look before long work; errors as in :func:`atomic_folder`.
    """
    try:
        target = Path(path).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise StorageError(f"{path} could not be written: {error}.") from error
    if Path.cwd().is_relative_to(target):
        raise StorageError(
            f"{path} is the folder that the program runs in, or one above it; it cannot be "
            "replaced. Name a folder inside it."
        )
    if not target.exists():
        return target
    refuse_existing(Path(path), overwrite=overwrite)
    if not target.is_dir():
        raise StorageError(f"{path} is a file; only a folder can be replaced. Choose another path.")
    if any(target.iterdir()) and not _is_coteries(target):
        raise StorageError(
            f"{path} holds files that coterie did not write (it has no {MANIFEST} of coterie's); "
            "overwriting replaces only a data set, a split or a model. Choose another path."
        )
    return target


def _is_coteries(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("format")).startswith("coterie-")


def _swap(aside: Path, path: Path) -> None:
    """Rename ``aside`` to ``path``; what was there before is put back if that is interrupted."""
    if not path.exists():
        os.replace(aside, path)
        return
    old = aside.with_suffix(".old")
    try:
        os.replace(path, old)
        os.replace(aside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Return when the file's bytes are on the disk."""
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
