"""Files and folders appear whole or not at all."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.errors import StorageError
from coterie.files import atomic_file, atomic_folder, sha256

MANIFEST = '{"format": "coterie-interactions"}'


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with atomic_file(path) as aside:
        aside.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert left_in(path.parent) == ["a.txt"]


def test_bytes_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut leaves a file with its name and without its content."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("flush"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    with atomic_file(tmp_path / "a.txt") as aside:
        aside.write_text("one")
    with atomic_folder(tmp_path / "set") as aside:
        (aside / "a").write_text("one")
        (aside / "b").write_text("two")
    assert done == ["flush", "rename", "flush", "flush", "rename"]


def write_half(path: Path) -> None:
    with atomic_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError("stop")


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half(path)
    assert path.read_text() == "old"
    assert left_in(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "set"
    with atomic_folder(path) as aside:
        (aside / "a").write_text("one")
        assert not path.exists()
    assert (path / "a").read_text() == "one"
    assert left_in(path.parent) == ["set"]


def test_a_folder_that_exists_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "manifest.json").write_text(MANIFEST)
    with (
        pytest.raises(StorageError, match=r"exists already.*--overwrite"),
        atomic_folder(path),
    ):
        pytest.fail("the block must not run")
    with atomic_folder(path, overwrite=True) as aside:
        (aside / "new").touch()
    assert left_in(path) == ["new"]
    assert left_in(tmp_path) == ["set"]


def write_half_a_folder(path: Path) -> None:
    with atomic_folder(path, overwrite=True) as aside:
        (aside / "new").touch()
        raise RuntimeError("stop")


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "manifest.json").write_text(MANIFEST)
    with pytest.raises(RuntimeError, match="stop"):
        write_half_a_folder(path)
    assert left_in(path) == ["manifest.json"]
    assert left_in(tmp_path) == ["set"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(5, "Input/output error"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failed_swap_puts_the_old_folder_back(
    error: BaseException,
    expected: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "manifest.json").write_text(MANIFEST)
    real, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(expected), atomic_folder(path, overwrite=True):
        pass
    assert left_in(path) == ["manifest.json"]
    assert left_in(tmp_path) == ["set"]


def refused(path: Path | str, message: str) -> None:
    with pytest.raises(StorageError, match=message), atomic_folder(path, overwrite=True):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "no JSON", '{"name": "a web application"}'])
def test_what_others_wrote_is_never_replaced(manifest: str | None, tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (path / "manifest.json").write_text(manifest)
    before = left_in(path)
    refused(path, "holds files that coterie did not write")
    refused(path / "thesis.tex", "is a file")
    assert left_in(path) == before
    assert left_in(tmp_path) == ["thesis"]


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    with atomic_folder(path, overwrite=True) as aside:
        (aside / "new").touch()
    assert left_in(path) == ["new"]


def fill_after(path: Path, name: str) -> None:
    with atomic_folder(path):
        path.mkdir()
        (path / name).touch()


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"):
        fill_after(tmp_path / "set", "foreign")
    assert left_in(tmp_path / "set") == ["foreign"]
    assert left_in(tmp_path) == ["set"]


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    (real / "manifest.json").write_text(MANIFEST)
    link.symlink_to("real")
    with atomic_folder(link, overwrite=True) as aside:
        (aside / "new").touch()
    assert link.is_symlink()
    assert left_in(real) == ["new"]
    assert left_in(tmp_path) == ["link", "real"]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    link.unlink()
    link.symlink_to("foreign")
    refused(link, "coterie did not write")
    assert left_in(tmp_path / "foreign") == ["file"]


def test_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for path in (".", "", "..", Path.cwd(), "/"):
        refused(path, "is the folder that the program runs in, or one above")
    assert left_in(tmp_path) == ["empty"]


@pytest.mark.parametrize("number", [28, 122, 27])  # no space, over quota, file too large
def test_a_full_disk_is_said_so(number: int, tmp_path: Path) -> None:
    for block in (atomic_file, atomic_folder):
        with pytest.raises(StorageError, match="The disk is full"), block(tmp_path / "x"):
            raise OSError(number, os.strerror(number))
    assert left_in(tmp_path) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for block in (atomic_file, atomic_folder):
        with (
            pytest.raises(StorageError, match="could not be written"),
            block(tmp_path / "file" / "x"),
        ):
            pytest.fail("the block must not run")


FULL = """
import resource, signal, sys
import numpy as np
from coterie.data import read_interactions
from coterie.errors import StorageError
import polars as pl
n = 50_000
users, items = np.arange(n) // 50, np.arange(n) % 997
if sys.argv[3] == "long ids":
    users = pl.Series([np.random.default_rng(user).bytes(50).hex() for user in range(300)])
    items = np.zeros(300, int)
frame = pl.DataFrame({"user_id": users, "item_id": items})
data = read_interactions(frame)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    data.save(sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("limit", "ids"), [(100, ""), (5_000, ""), (150_000, ""), (3_000, "long ids")]
)
def test_a_data_set_that_does_not_fit_leaves_nothing(limit: int, ids: str, tmp_path: Path) -> None:
    """A real limit of the operating system, reached in NumPy, in polars or in the manifest."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "set"), str(limit), ids]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The disk is full" in done.stdout
    assert left_in(tmp_path) == []


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
