"""The files we want out of an archive, unpacked into a temporary folder; never outside of it."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from coterie.data.guard import reading
from coterie.errors import DataError

Wanted = Callable[[str], bool]
BLOCK = 1 << 20


@contextmanager
def unpacked(path: Path, wanted: Wanted) -> Iterator[list[Path]]:
    """Yield the wanted files of a folder in place, or of a .zip or .tar(.gz) unpacked aside.

    Members are written under their last name only, so no member can leave the folder; an archive
    with a wanted member that tries to is refused. An archive within the archive (Netflix's
    ``training_set.tar``) is unpacked too. The unpacked files are gone afterwards.

    Parameters
    ----------
    path
        A folder, an archive, or a single file.
    wanted
        Whether a file is wanted, by its last name.

    Raises
    ------
    DataError
        The archive is damaged, encrypted, or holds a wanted member with a path that leaves it.
    """
    if path.is_dir():
        with reading(str(path)):
            inside = [p for p in path.rglob("*") if p.is_file() and wanted(p.name)]
        yield sorted(inside, key=lambda p: (len(p.parts), p))
    elif is_archive(path):
        with tempfile.TemporaryDirectory(prefix="coterie-") as folder:
            with reading(str(path)):
                _unpack(path, Path(folder), wanted)
            yield sorted(Path(folder).iterdir())
    else:
        yield [path] if wanted(path.name) else []


def is_archive(path: Path) -> bool:
    """Whether a file is a .zip or .tar archive, by its content."""
    with reading(str(path)):
        return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:  # cut within its first block
        return False


def _unpack(path: Path, folder: Path, wanted: Wanted) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and _take(info.filename, wanted, path):
                    with archive.open(info) as member:
                        _write(member, folder, info.filename, wanted)
        return
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isreg() and _take(entry.name, wanted, path):
                stream = archive.extractfile(entry)
                if stream is not None:
                    with stream as member:
                        _write(member, folder, entry.name, wanted)


def _take(name: str, wanted: Wanted, path: Path) -> bool:
    parts = PurePosixPath(name.replace("\\", "/"))
    if "__MACOSX" in parts.parts or not (wanted(parts.name) or _is_nested(parts.name)):
        return False
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(
            f"{path}: member {name!r} points outside of the archive; it is refused as unsafe."
        )
    return True


def _is_nested(name: str) -> bool:
    return name == "training_set.tar"


def _write(member: IO[bytes], folder: Path, name: str, wanted: Wanted) -> None:
    target = folder / PurePosixPath(name.replace("\\", "/")).name
    if target.exists():  # the first one wins: the archives we know hold each file once
        return
    with target.open("wb") as file:
        shutil.copyfileobj(member, file, BLOCK)
    if _is_nested(target.name):
        _unpack(target, folder, wanted)
        target.unlink()
