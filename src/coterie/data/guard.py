"""Other libraries' errors while reading → one :class:`DataError` that names the source."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from coterie.errors import CoterieError, DataError, StorageError
from coterie.files import DISK_FULL

# ValueError covers UnicodeDecodeError, JSON and NumPy's complaints about damaged files.
_DAMAGE = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,  # a Rust panic: derives from BaseException
    pa.ArrowException,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,  # a ZIP member with an unknown compression
    OverflowError,
    RuntimeError,  # a ZIP member that is encrypted
)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Translate every failure to read ``label`` into a :class:`DataError`.

    Errors of coterie pass through, and so do interrupts and programming errors outside reading.
    """
    try:
        yield
    except CoterieError:
        raise
    except MemoryError as error:
        raise DataError(f"{label} does not fit in memory: {error}.") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageError(
                f"The disk is full: {label} could not be unpacked. Free some space, or set TMPDIR "
                "to a folder that has some."
            ) from error
        raise _damage(label, error) from error
    except _DAMAGE as error:
        raise _damage(label, error) from error


def _damage(label: str, error: BaseException) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{label} may not be read: {error.strerror}.")
    lines = str(error).strip().splitlines()
    why = lines[0].rstrip(".") if lines else type(error).__name__
    return DataError(
        f"{label} could not be read: {why}. It is damaged, truncated, or of another format."
    )


def existing(path: Path | str) -> Path:
    """The path, if there is something to read; ``~`` is expanded.

    Raises
    ------
    DataError
        Nothing is there; the message names near matches in the same folder.
    """
    path = Path(path).expanduser()
    try:
        if path.exists():
            return path
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise DataError(f"{str(path)!r} is not a path that can be read: {error}.") from error
    if not path.parent.exists():
        raise DataError(f"{path} does not exist: there is no folder {path.parent}.")
    shown = ", ".join(beside[:8]) + (" …" if len(beside) > 8 else "")
    folder = "this folder" if path.parent == Path() else path.parent
    raise DataError(f"{path} does not exist; {folder} holds: {shown or 'nothing'}.")
