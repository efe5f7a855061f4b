"""``coterie prepare``, and each kind of bad input as the user sees it."""

import gzip
import resource
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from coterie.data.interactions import Interactions

ROWS = [("a", "x", 5, 10), ("a", "y", 1, 20), ("b", "x", 4, 30), ("b", "z", 5, 40)]


def write(path, rows=ROWS, names=("user_id", "item_id", "rating", "timestamp")):
    lines = [",".join(names), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_data_set(coterie, tmp_path):
    log = write(tmp_path / "log.csv")
    ended = coterie("prepare", log, "--out", tmp_path / "data", "--threshold", 4, "--json")
    assert ended.code == 0
    facts = ended.json()
    assert (facts["users"], facts["items"], facts["interactions"]) == (2, 2, 3)
    assert facts["filters"]["below the positive threshold"] == 1
    data = Interactions.open(tmp_path / "data", verify=True)
    assert data.to_frame()["item_id"].to_list() == ["x", "x", "z"]


def test_for_people(coterie, workspace, tmp_path):
    ended = coterie("prepare", workspace.log, "--out", tmp_path / "data", "--name", "mine")
    assert ended.code == 0
    assert "mine" in ended.out
    assert "interactions" in ended.out


def test_config_and_flags(coterie, tmp_path):
    log = write(tmp_path / "log.csv")
    config = tmp_path / "run.toml"
    config.write_text("[prepare]\npositive_threshold = 5\nkeep_timestamps = false\n[model]\n")
    run = ("prepare", log, "--config", config, "--json", "--out")
    assert coterie(*run, tmp_path / "1").json()["interactions"] == 2
    assert coterie(*run, tmp_path / "2", "--threshold", 4).json()["interactions"] == 3
    assert Interactions.open(tmp_path / "2").timestamps is None


def test_misspelt_key_names_the_nearest(coterie, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[prepare]\nmin_user_item = 5\n")
    log = write(tmp_path / "log.csv")
    ended = coterie("prepare", log, "--config", config, "--out", tmp_path / "data")
    assert ended.code == 2
    assert "'min_user_item'; did you mean 'min_user_items'?" in ended.message()


def test_window_by_date(coterie, tmp_path):
    log = write(tmp_path / "log.csv", [("a", "x", 1, 0), ("a", "y", 1, 86_400)])
    ended = coterie("prepare", log, "--out", tmp_path / "d", "--since", "1970-01-02", "--json")
    assert ended.json()["interactions"] == 1


def test_usual_options_of_a_public_data_set(coterie, tmp_path):
    log = write(tmp_path / "log.csv", [("a", item, 5, 1) for item in range(6)] + ROWS)
    ended = coterie("prepare", log, "--out", tmp_path / "d", "--dataset", "ml-1m", "--json")
    assert ended.json()["users"] == 1
    assert Interactions.open(tmp_path / "d").name == "ml-1m"
    ended = coterie("prepare", log, "--out", tmp_path / "e", "--dataset", "ml-2m")
    assert ended.code == 2
    assert "ml-20m" in ended.message()


def test_a_folder_that_exists(coterie, tmp_path):
    log = write(tmp_path / "log.csv")
    run = ("prepare", log, "--out", tmp_path / "data", "--json")
    assert coterie(*run).code == 0
    again = coterie(*run)
    assert again.code == 2
    assert "exists already" in again.message()
    assert coterie(*run, "--overwrite", "--threshold", 5).json()["interactions"] == 2


def test_overwrite_spares_what_is_not_ours(coterie, tmp_path):
    log = write(tmp_path / "log.csv")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    ended = coterie("prepare", log, "--out", tmp_path / "home", "--overwrite")
    assert ended.code == 2
    assert "did not write" in ended.message()
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("out", "why"),
    [("file", "is a file; only a folder"), (".", "the folder that the program runs")],
)
def test_what_cannot_be_overwritten_is_refused_before_the_log_is_read(out, why, coterie, tmp_path):
    (tmp_path / "file").touch()
    place = out if out == "." else tmp_path / out
    ended = coterie("prepare", tmp_path, "--out", place, "--overwrite")  # nothing that can be read
    assert ended.code == 2
    assert why in ended.message()


BAD = {
    "wrong column": (write, ("--user", "usr"), ["'usr'", "user_id, item_id, rating, timestamp"]),
    "rating": (
        lambda path: write(path, [*ROWS, ("c", "x", "good", 1)]), (), ["row 5", "good"],
    ),
    "negative time": (lambda path: write(path, [*ROWS, ("c", "x", 1, -5)]), (), ["row 5", "-5"]),
    "NaN time": (lambda path: write(path, [*ROWS, ("c", "x", 1, "nan")]), (), ["row 5"]),
    "duplicates": (
        lambda path: write(path, [*ROWS, ROWS[0]]),
        ("--duplicates", "error"),
        ["first user a with item x"],
    ),
    "nothing left": (write, ("--threshold", "9"), ["left", "4"]),
    "ids clash": (
        lambda path: write(path, [("1", "x", 1, 1), ("01", "x", 1, 1)]),
        ("--id-type", "integer"),
        ["01"],
    ),
    "damaged gzip": (
        lambda path: path.write_bytes(gzip.compress(b"user_id,item_id\n" + b"1,2\n" * 9999)[:40]),
        (),
        ["could not be read"],
    ),
    "damaged archive": (lambda path: path.write_bytes(b"PK\x03\x04" + b"0" * 99), (), ["archive"]),
    "empty": (lambda path: path.write_text(""), (), ["empty"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, coterie, tmp_path):
    make, flags, expected = BAD[case]
    path = tmp_path / f"log.{'csv.gz' if 'gzip' in case else 'zip' if 'archive' in case else 'csv'}"
    make(path)
    ended = coterie("prepare", path, "--out", tmp_path / "data", *flags)
    assert ended.code == 2
    message = ended.message().replace("'", "")
    for words in expected:
        assert words.replace("'", "") in message
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


def test_missing_file(coterie, tmp_path):
    write(tmp_path / "ratings.csv")
    ended = coterie("prepare", tmp_path / "rating.csv", "--out", tmp_path / "data")
    assert ended.code == 2
    assert "ratings.csv" in ended.message()


def test_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files fails in the same way, in the midst of writing."""
    rng = np.random.default_rng(0)
    pl.DataFrame({"user": rng.integers(0, 300, 9000), "item": rng.integers(0, 99, 9000)}).write_csv(
        tmp_path / "log.csv"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "coterie", "prepare", tmp_path / "log.csv", "--out", tmp_path / "d"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "written" in ended.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]
