"""The layout of text files and the kinds of files, and column names."""

from pathlib import Path

import pytest

from coterie.data.columns import ITEM, RATING, TIMESTAMP, USER, USUAL_NAMES, find_roles
from coterie.data.readers import read_interactions
from coterie.data.sniff import kind_of, sniff
from coterie.errors import DataError


@pytest.mark.parametrize(
    ("text", "separator", "header", "n_columns"),
    [
        ("user_id,item_id\n1,2\n", ",", True, 2),
        ("1,2,5\n1,3,4\n", ",", False, 3),
        ("who\twhat\n1\t2\n3\t4\n", "\t", True, 2),  # text above numbers
        ("alice\tbook\nbob\tfilm\n", "\t", False, 2),
        ("1::2::5::9\n", "::", False, 4),
        ("a;b;rating\nx,1;y;2\n", ";", True, 3),
        ("1 2 3\n4 5 6\n", " ", False, 3),
        ("u|i\n1|2\n3|4\n", "|", True, 2),
        ("\n\nuser,item\n1,2\n", ",", True, 2),
    ],
)
def test_separator_and_header(
    text: str, separator: str, header: bool, n_columns: int, tmp_path: Path
) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    found = sniff(path)
    assert (found.separator, found.header, len(found.columns)) == (separator, header, n_columns)


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("user,item\n1,2\n")
    found = sniff(path, header=False, separator=",")
    assert found.columns == ("column_1", "column_2")


def test_doubled_and_padded_names(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id, item_id , x,x\n 1, 20 ,3,4\n 1,30,3,4\n")
    assert sniff(path).columns == ("user_id", "item_id", "x", "x (2)")
    assert read_interactions(path).to_frame().rows() == [(1, 20), (1, 30)]


def test_a_long_file_is_judged_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n" + "123456,7654321\n" * 20_000)
    assert sniff(path).columns == ("user_id", "item_id")


def test_a_name_that_promises_too_much(tmp_path: Path) -> None:
    for name in ("log.parquet", "log.arrow", "log.npz", "log.zip"):
        (tmp_path / name).write_bytes(b"user,item\n1,2\n")
        with pytest.raises(DataError, match="is named like"):
            kind_of(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["userId", "movieId", "rating", "timestamp"], [0, 1, 2, 3]),
        (["User ID", "Item-ID", "Weight", "TS"], [0, 1, 2, 3]),
        (["sid", "uid"], [1, 0]),
        (["title", "reviewerID", "asin", "overall", "unixReviewTime"], [1, 2, 3, 4]),
        (["user", "user_id", "item"], [1, 2]),  # the more telling name wins
    ],
)
def test_usual_names(columns: list[str], expected: list[int]) -> None:
    wanted = dict.fromkeys((USER, ITEM, RATING, TIMESTAMP))
    assert list(find_roles(columns, wanted).values()) == [columns[place] for place in expected]


def test_no_usual_name_has_two_roles() -> None:
    names = [name for of_role in USUAL_NAMES.values() for name in of_role]
    assert len(names) == len(set(names))
