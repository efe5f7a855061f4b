"""Downloads against a server on this machine that supports ranges and can be made to fail."""

import builtins
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.data.download import CHUNK, TRUST_FILE, download
from coterie.errors import DownloadError, MissingExtraError, StorageError

CONTENT = np.random.default_rng(0).bytes(2_000_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``cut`` lists after how many bytes each next reply breaks off."""

    content = CONTENT
    tag = '"one"'
    ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut: list[int] = []
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        fresh = not server.ranges or self.headers.get("If-Range", server.tag) != server.tag
        start = 0 if wanted is None or fresh else int(wanted.removeprefix("bytes=").rstrip("-"))
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        if server.cut:
            body = body[: server.cut.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, checksum: str | None = MD5, attempts: int = 3) -> Path:
    return download(
        server.address, folder, checksum=checksum, attempts=attempts, pause=0, show_progress=False
    )


def start_of(wanted: str | None) -> int:
    return int((wanted or "").removeprefix("bytes=").rstrip("-"))


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path / "new")
    assert path == tmp_path / "new" / "data.zip"
    assert path.read_bytes() == CONTENT
    fetch(server, tmp_path / "new")
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["data.zip"]


def test_progress_names_the_file_and_how_much_came_but_not_on_standard_output(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    download(server.address, tmp_path, checksum=MD5)
    out, err = capsys.readouterr()
    assert re.search(r"data\.zip .* 2\.0/2\.0 MB", err)
    assert out == ""


def test_a_broken_connection_is_taken_up_at_once(server: Server, tmp_path: Path) -> None:
    server.cut = [700_000, 600_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    first, *starts = server.asked
    assert first is None
    for start, sent in zip(starts, (700_000, 1_300_000), strict=True):
        assert sent - 2 * CHUNK < start_of(start) <= sent


def test_a_partial_download_is_resumed_by_a_later_call(server: Server, tmp_path: Path) -> None:
    server.cut = [700_000]
    with pytest.raises(DownloadError, match=r"\d+ bytes are kept; the next attempt goes on"):
        fetch(server, tmp_path, attempts=1)
    assert not (tmp_path / "data.zip").exists()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2
    assert 700_000 - CHUNK < start_of(server.asked[1]) <= 700_000
    assert [p.name for p in tmp_path.iterdir()] == ["data.zip"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.cut = [700_000]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, attempts=1)
    server.content, server.tag = CONTENT[::-1], '"two"'
    path = fetch(server, tmp_path, checksum=None)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    server.cut, server.ranges = [700_000], False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"not the expected one \(md5:0000"):
        fetch(server, tmp_path, checksum="md5:" + "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_place_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"half")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message", "n_asked"), [(404, "404 Not Found", 1), (503, "answers 503", 3)]
)
def test_refusals_are_reported(
    status: int, message: str, n_asked: int, server: Server, tmp_path: Path
) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=message):
        fetch(server, tmp_path)
    assert len(server.asked) == n_asked
    assert list(tmp_path.iterdir()) == []


def test_without_a_published_checksum_the_first_download_is_trusted(
    server: Server, tmp_path: Path
) -> None:
    path = fetch(server, tmp_path, checksum=None)
    recorded = json.loads((tmp_path / TRUST_FILE).read_text())
    assert recorded == {"data.zip": "sha256:" + hashlib.sha256(CONTENT).hexdigest()}
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=r"not the expected one.*checksums\.json"):
        fetch(server, tmp_path, checksum=None)
    assert not path.exists()


def test_a_damaged_record_of_checksums_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / TRUST_FILE).write_text("[1")
    with pytest.raises(DownloadError, match="is damaged"):
        fetch(server, tmp_path, checksum=None)


def test_no_server_and_no_address(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be fetched in 1 attempts"):
        download("http://127.0.0.1:9/x.zip", tmp_path, checksum=None, attempts=1)
    with pytest.raises(DownloadError, match="no http"):
        download("file:///etc/passwd", tmp_path, checksum=None)


def test_a_full_disk_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    def open_(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = real(path, mode, *rest, **more)
        return Full(file) if path.suffix == ".part" and mode != "rb" else file

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(StorageError, match="The disk is full"):
        fetch(server, tmp_path)
    assert not (tmp_path / "data.zip").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"coterie\[download\]"):
        download("http://127.0.0.1:9/x.zip", tmp_path, checksum=None)
