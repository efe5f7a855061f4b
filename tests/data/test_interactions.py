"""Interactions against dense matrices; a saved folder opens as it was, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ArtifactError, DataError, StorageError

dense_matrices = arrays.arrays(
    np.int64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3)
)


def from_dense(dense: np.ndarray) -> Interactions:
    """Stored are the non-zero cells; a cell's value is its rating, tenfold its time."""
    users, items = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(axis=1))]).astype(np.int64)
    values = dense[users, items]
    return Interactions(
        indptr,
        items.astype(np.int32),
        IdMap(np.arange(dense.shape[0]) + 100),
        IdMap([f"i{n}" for n in range(dense.shape[1])]),
        values.astype(np.float32),
        values * 10,
    ).check()


def to_dense(data: Interactions) -> np.ndarray:
    assert data.values is not None
    assert data.timestamps is not None
    assert np.array_equal(data.values * 10, data.timestamps)
    dense = np.zeros((data.n_users, data.n_items), dtype=np.int64)
    dense[data.user_of_each(), data.indices] = data.values
    return dense


@given(dense=dense_matrices)
def test_counts_and_rows(dense: np.ndarray) -> None:
    data = from_dense(dense)
    assert data.nnz == np.count_nonzero(dense)
    assert np.array_equal(data.history_lengths, np.count_nonzero(dense, axis=1))
    assert np.array_equal(data.item_counts(), np.count_nonzero(dense, axis=0))
    assert np.array_equal(data.to_scipy().toarray(), dense > 0)
    for user in range(data.n_users):
        assert np.array_equal(data.row(user), np.flatnonzero(dense[user]))


@given(dense=dense_matrices, data=st.data())
def test_parts_agree_with_the_dense_matrix(dense: np.ndarray, data: st.DataObject) -> None:
    whole = from_dense(dense)
    users = data.draw(st.lists(st.integers(0, dense.shape[0] - 1), unique=True))
    chosen = whole.rows(np.array(users, dtype=np.int64)).check()
    assert np.array_equal(to_dense(chosen), dense[users])
    assert chosen.user_ids.ids.to_list() == [user + 100 for user in users]

    keep = np.array(data.draw(st.lists(st.booleans(), min_size=whole.nnz, max_size=whole.nnz)))
    kept = whole.select(keep.astype(bool)).check()
    expected = dense.copy()
    expected[dense > 0] *= keep.astype(np.int64)
    assert np.array_equal(to_dense(kept), expected)

    items = data.draw(st.lists(st.integers(0, dense.shape[1] + 1), unique=True))
    narrowed = whole.select_items(IdMap([f"i{item}" for item in items])).check()
    wide = np.hstack([dense, np.zeros((len(dense), 2), dtype=np.int64)])
    assert np.array_equal(to_dense(narrowed), wide[:, items])


@settings(deadline=None, max_examples=30)
@given(dense=dense_matrices)
def test_a_frame_holds_everything(dense: np.ndarray) -> None:
    rows = from_dense(dense).to_frame().rows()
    expected = [
        (user + 100, f"i{item}", float(dense[user, item]), 10 * dense[user, item])
        for user, item in zip(*np.nonzero(dense), strict=True)
    ]
    assert rows == expected


@pytest.fixture
def example() -> Interactions:
    data = from_dense(np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0]]))
    table = pl.DataFrame({"item_id": ["i0", "i2"], "title": ["zero", "two"]})
    return replace(data, items=table, name="x", source={"filters": {}})


def test_a_saved_folder_opens_as_it_was(example: Interactions, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]" / "set"  # brackets are no pattern
    opened = Interactions.open(example.save(folder), verify=True).check()
    assert isinstance(opened.indices, np.memmap)
    for name in ("indptr", "indices", "values", "timestamps"):
        assert np.array_equal(getattr(opened, name), getattr(example, name))
        assert getattr(opened, name).dtype == getattr(example, name).dtype
    assert (opened.user_ids, opened.item_ids) == (example.user_ids, example.item_ids)
    assert (opened.name, opened.source) == ("x", {"filters": {}})
    assert opened.items is not None
    assert opened.items.equals(example.items)
    assert np.array_equal(to_dense(opened), to_dense(example))


def test_values_and_times_may_be_absent(example: Interactions, tmp_path: Path) -> None:
    bare = Interactions(example.indptr, example.indices, example.user_ids, example.item_ids)
    opened = Interactions.open(bare.save(tmp_path / "set"))
    assert opened.values is None
    assert opened.timestamps is None
    assert opened.items is None
    assert opened.to_frame().columns == ["user_id", "item_id"]


def test_empty_data_can_be_saved(example: Interactions, tmp_path: Path) -> None:
    empty = example.select(np.zeros(example.nnz, dtype=bool))
    assert Interactions.open(empty.save(tmp_path / "set")).nnz == 0


def test_a_folder_that_exists_is_refused(example: Interactions, tmp_path: Path) -> None:
    example.save(tmp_path / "set")
    with pytest.raises(StorageError, match="exists already"):
        example.save(tmp_path / "set")
    example.save(tmp_path / "set", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("name", ["indptr.npy", "indices.npy", "users.parquet", "items.parquet"])
def test_truncated_and_edited_files_are_refused(
    name: str, example: Interactions, tmp_path: Path
) -> None:
    path = example.save(tmp_path / "set") / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match=f"{name} is truncated"):
        Interactions.open(path.parent)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name} was edited"):
        Interactions.open(path.parent, verify=True)
    for content in (b"\x00" * len(whole), b"\x93NUMPY\x01\x00\xff\xff".ljust(len(whole), b"\xff")):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            Interactions.open(path.parent).to_frame()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("indices", [0, 3, 1], r"indices.npy holds 0 … 3, and there are 3 items"),
        ("indices", [0, -1, 1], r"indices.npy holds -1 … 1"),
        ("indptr", [0, 3, 2, 3], "indptr.npy decreases"),
        ("indptr", [1, 2, 2, 3], "indptr.npy does not run from 0 to 3"),
        ("indptr", [0, 2, 2, 9], "indptr.npy does not run from 0 to 3"),
    ],
)
def test_edits_of_the_same_size_are_refused(
    name: str, values: list[int], message: str, example: Interactions, tmp_path: Path
) -> None:
    path = example.save(tmp_path / "set")
    file = path / f"{name}.npy"
    np.save(file, np.array(values, dtype=getattr(example, name).dtype))
    with pytest.raises(ArtifactError, match=message):
        Interactions.open(path)


@pytest.mark.parametrize("key", ["n_users", "n_items", "nnz", "name", "source"])
@pytest.mark.parametrize("value", [None, "3", -1, 3.0, True, [3]])
def test_facts_of_a_wrong_type_are_refused(
    key: str, value: object, example: Interactions, tmp_path: Path
) -> None:
    if key == "name" and isinstance(value, str):
        value = 3
    path = edited(example.save(tmp_path / "set"), {key: value})
    with pytest.raises(ArtifactError, match=f"'{key}' in manifest\\.json must be"):
        Interactions.open(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_items", 4, "items.parquet holds 3 ids, manifest.json says 4"),
        ("n_items", 2, "items.parquet holds 3 ids, manifest.json says 2|and there are 2 items"),
        ("n_users", 4, "do not have the sizes"),
    ],
)
def test_facts_that_are_not_the_files_are_refused(
    key: str, value: int, message: str, example: Interactions, tmp_path: Path
) -> None:
    path = edited(example.save(tmp_path / "set"), {key: value})
    with pytest.raises(ArtifactError, match=message):
        Interactions.open(path, verify=True)


def test_rows_out_of_order_are_refused_where_asked(example: Interactions, tmp_path: Path) -> None:
    wrong = replace(example, indices=np.array([2, 0, 1], np.int32))
    path = wrong.save(tmp_path / "set")
    with pytest.raises(ArtifactError, match="strictly increasing"):
        Interactions.open(path, verify=True)


def test_an_item_table_without_ids_is_refused(example: Interactions, tmp_path: Path) -> None:
    wrong = replace(example, items=pl.DataFrame({"title": ["zero"]}))
    path = wrong.save(tmp_path / "set")
    with pytest.raises(ArtifactError, match="needs a column 'item_id'"):
        Interactions.open(path)


def test_sub_matrices_keep_name_and_source(example: Interactions) -> None:
    for part in (
        example.rows(np.array([2])),
        example.select(np.array([True, False, True])),
        example.select_items(IdMap(["i2"])),
    ):
        assert (part.name, part.source) == ("x", {"filters": {}})


def test_foreign_folders_are_never_overwritten(example: Interactions, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="coterie did not write"):
        example.save(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def edited(path: Path, changes: dict[str, object]) -> Path:
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": np.array([0, 2, 3])}, "2 rows but 3 user ids"),
        ({"indptr": np.array([0, 3, 2, 3])}, "must not decrease"),
        ({"indptr": np.array([1, 2, 2, 3])}, "must start at 0"),
        ({"indptr": np.array([0, 2, 2, 2])}, "end at the number of interactions"),
        ({"indices": np.array([0, 3, 1], np.int32)}, r"must lie in 0 … 2"),
        ({"indices": np.array([2, 0, 1], np.int32)}, "strictly increasing"),
        ({"indices": np.array([2, 2, 1], np.int32)}, "strictly increasing"),
        ({"values": np.array([1.0], np.float32)}, "1 values for 3 interactions"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    changes: dict[str, np.ndarray], message: str, example: Interactions
) -> None:
    with pytest.raises(DataError, match=message):
        replace(example, **changes).check()
