"""Fetch a public file: resumed where it stopped, checked, and in place only when it is whole.

pooch (extra ``download``) checks and places the file; the transfer itself is ours, because a
partial file has to survive a broken connection.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from coterie.errors import DownloadError, MissingExtraError, StorageError
from coterie.files import DISK_FULL, atomic_file, sha256

TRUST_FILE = "checksums.json"
TIMEOUT_SECONDS = 30
CHUNK = 1 << 14  # what a broken connection may cost


def download(
    address: str,
    folder: Path | str,
    *,
    checksum: str | None,
    name: str | None = None,
    attempts: int = 5,
    pause: float = 2.0,
    show_progress: bool = True,
) -> Path:
    """Fetch a file into a folder, unless it is there already and is what it should be.

    A broken transfer is taken up where it stopped, now (up to ``attempts``) or in a later call, if
    the server still has the same file. Without a published checksum, the first download's SHA-256
    is recorded in ``checksums.json`` in the folder, and later ones must agree with it.

    Parameters
    ----------
    address
        ``http://`` or ``https://`` address.
    checksum
        ``"md5:…"`` or ``"sha256:…"`` as published; None where none is.
    name
        The file's name in the folder; default: the last part of the address.
    attempts, pause
        How often to try, and the seconds to wait before the second time; doubled each time.

    Raises
    ------
    DownloadError
        The server cannot be reached, has no such file, or the file is not what it should be.
    StorageError
        The disk is full, or the folder cannot be written.
    MissingExtraError
        The extra ``download`` is not installed.
    """
    pooch = _pooch()
    folder = Path(folder).expanduser()
    name = name or Path(urlparse(address).path).name
    if not name or urlparse(address).scheme not in ("http", "https"):
        raise DownloadError(f"{address!r} is no http(s) address of a file.")
    expected = checksum or _trusted(folder).get(name)
    pooch.utils.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(
            pooch.retrieve(
                address,
                known_hash=expected,
                fname=name,
                path=folder,
                downloader=_Transfer(folder / f".{name}.part", attempts, pause, show_progress),
            )
        )
    except DownloadError:
        raise
    except ValueError as error:  # pooch: the hash differs
        raise DownloadError(
            f"{address}: the file is not the expected one ({expected}). It was not kept; try again "
            f"later, or, if the publisher changed it, correct the checksum "
            f"({'of the data set' if checksum else folder / TRUST_FILE})."
        ) from error
    except OSError as error:
        raise _cannot_write(folder / name, error) from error
    if expected is None:
        _trust(folder, name, path)
    return path


class _Transfer:
    """pooch's downloader: ``(address, target, pooch)``, by way of a partial file that survives."""

    def __init__(self, partial: Path, attempts: int, pause: float, show_progress: bool) -> None:
        self.partial = partial
        self.attempts = attempts
        self.pause = pause
        self.show_progress = show_progress

    def __call__(self, address: str, target: str, _: Any, check_only: bool = False) -> None:
        import requests

        broken: Exception | None = None
        with _bar(self.partial.name[1:].removesuffix(".part"), self.show_progress) as advance:
            for attempt in range(self.attempts):
                if attempt:
                    time.sleep(self.pause * 2 ** (attempt - 1))
                try:
                    self._fetch(address, advance)
                    break
                except requests.RequestException as error:
                    broken = error
            else:
                kept = self.partial.stat().st_size if self.partial.exists() else 0
                raise DownloadError(
                    f"{address} could not be fetched in {self.attempts} attempts: {broken}. "
                    f"{kept} bytes are kept; the next attempt goes on from there."
                ) from broken
        self.partial.replace(target)
        self._tag.unlink(missing_ok=True)

    @property
    def _tag(self) -> Path:
        """What the server calls the version that the partial file is of."""
        return self.partial.with_name(self.partial.name + ".tag")

    def _fetch(self, address: str, advance: Any) -> None:
        import requests

        have = self.partial.stat().st_size if self.partial.exists() else 0
        tag = self._tag.read_text() if self._tag.exists() else ""
        headers = {"Accept-Encoding": "identity"}
        if have and tag:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as reply:
            if reply.status_code == 416:  # nothing is left, or the file shrank: begin again
                self.partial.unlink()
                raise requests.ConnectionError("the server refused to resume")
            if reply.status_code >= 500 or reply.status_code in (408, 429):
                raise requests.ConnectionError(f"the server answers {reply.status_code}")
            if reply.status_code not in (200, 206):
                raise DownloadError(
                    f"{address}: the server answers {reply.status_code} {reply.reason}; "
                    "the file has moved or is not public."
                )
            resumed = reply.status_code == 206
            length = reply.headers.get("Content-Length")
            whole = None if length is None else int(length) + (have if resumed else 0)
            self._tag.write_text(
                reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")
            )
            advance(have if resumed else 0, whole)
            got = have if resumed else 0
            with self.partial.open("ab" if resumed else "wb") as file:
                for block in reply.iter_content(CHUNK):
                    file.write(block)
                    got += len(block)
                    advance(got, whole)
            if whole is not None and got != whole:
                raise requests.ConnectionError(f"the connection ended after {got} of {whole} bytes")


@contextmanager
def _bar(name: str, shown: bool) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    timing = (TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)  # standard output is for results
    with Progress(*columns, *timing, console=console, disable=not shown) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _trusted(folder: Path) -> dict[str, str]:
    path = folder / TRUST_FILE
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DownloadError(f"{path} is damaged: {error}; correct or delete it.") from error
    if not isinstance(known, dict):
        raise DownloadError(f"{path} is damaged: expected names and checksums.")
    return {str(name): str(value) for name, value in known.items()}


def _trust(folder: Path, name: str, path: Path) -> None:
    known = _trusted(folder) | {name: f"sha256:{sha256(path)}"}
    with atomic_file(folder / TRUST_FILE) as aside:
        aside.write_text(json.dumps(known, indent=2, sort_keys=True))


def _pooch() -> Any:
    try:
        import pooch
        import requests  # noqa: F401  (used by the transfer; the extra brings both)
    except ImportError as error:
        raise MissingExtraError(
            "Downloading needs the extra 'download': install coterie[download]."
        ) from error
    return pooch


def _cannot_write(path: Path, error: OSError) -> StorageError:
    if error.errno in DISK_FULL:
        return StorageError(
            f"The disk is full: {path} could not be downloaded whole. What came is kept; free some "
            "space and try again."
        )
    return StorageError(f"{path} could not be written: {error.strerror or error}.")
