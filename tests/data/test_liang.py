"""The folder of Liang et al. is kept as the split that it is."""

from pathlib import Path

import numpy as np
import pytest

from coterie.data.interactions import Interactions
from coterie.data.liang import read_liang_split
from coterie.data.readers import read_interactions
from coterie.errors import DataError

FILES = {
    "unique_sid.txt": "50\n7\n9\n",  # sid 0, 1, 2
    "train.csv": "uid,sid\n0,0\n0,2\n1,1\n",
    "validation_tr.csv": "uid,sid\n2,0\n3,1\n",
    "validation_te.csv": "uid,sid\n2,1\n",
    "test_tr.csv": "uid,sid\n4,2\n4,0\n",
    "test_te.csv": "uid,sid\n4,1\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def pairs(data: Interactions) -> list[tuple[int, int]]:
    data.check()
    return sorted(data.to_frame().rows())


def test_each_part_has_its_pairs_over_the_same_items(tmp_path: Path) -> None:
    split = read_liang_split(write(tmp_path, FILES))
    assert split.protocol == "given"
    assert split.train.item_ids.ids.to_list() == [7, 9, 50]
    assert pairs(split.train) == [(0, 9), (0, 50), (1, 7)]
    assert pairs(split.validation.fold_in) == [(2, 50), (3, 7)]
    assert pairs(split.validation.held_out) == [(2, 7)]
    assert split.validation.held_out.user_ids.ids.to_list() == [2, 3]
    assert np.array_equal(split.validation.held_out.history_lengths, [1, 0])
    assert pairs(split.test.fold_in) == [(4, 9), (4, 50)]
    assert pairs(split.test.held_out) == [(4, 7)]


def test_as_interactions_it_is_the_union(tmp_path: Path) -> None:
    data = read_interactions(write(tmp_path, FILES))
    split = read_liang_split(tmp_path)
    parts = [split.train, split.validation.fold_in, split.validation.held_out]
    parts += [split.test.fold_in, split.test.held_out]
    assert pairs(data) == sorted(pair for part in parts for pair in pairs(part))


def test_text_item_ids_are_kept(tmp_path: Path) -> None:
    split = read_liang_split(write(tmp_path, FILES | {"unique_sid.txt": "SOB\nSOC\nSOA\n"}))
    assert split.train.item_ids.ids.to_list() == ["SOA", "SOB", "SOC"]
    assert pairs(split.train) == [(0, "SOA"), (0, "SOB"), (1, "SOC")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_te.csv": "uid,sid\n4,3\n"}, r"sid 3 has no line in unique_sid\.txt \(3 lines\)"),
        ({"test_te.csv": "uid,sid\n4,-1\n"}, "sid -1 has no line"),
        ({"test_te.csv": "uid,sid\n4,a\n"}, "must be integers, got 'a'"),
        ({"test_te.csv": "uid,song\n4,1\n"}, r"no column 'sid'.*'song'"),
        ({"test_te.csv": "uid,sid\n4,0\n"}, "both in the fold-in and held out"),
        ({"test_tr.csv": "uid,sid\n0,1\n"}, "1 users of the test part are training users"),
        ({"unique_sid.txt": "7\n7\n9\n"}, "'7' stands more than once"),
        ({"unique_sid.txt": "7\n\n9\n"}, "empty line"),
        ({"unique_sid.txt": "7\n07\n9\n"}, "'07', '7' are different ids"),
    ],
)
def test_wrong_files_are_refused(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_liang_split(write(tmp_path, FILES | changed))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "test_te.csv").unlink()
    with pytest.raises(DataError, match=r"test_te\.csv does not exist"):
        read_liang_split(tmp_path)
