"""External ids and indices are each other's inverse; strings and integers are not confused."""

from pathlib import Path
from uuid import UUID

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.ids import IdMap, Ids, as_id_series
from coterie.errors import ArtifactError, DataError

distinct_ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True),
    st.lists(st.text(), unique=True),
)


@given(ids=distinct_ids, data=st.data())
def test_ids_and_indices_are_inverse(ids: list[int] | list[str], data: st.DataObject) -> None:
    known = IdMap(ids)
    assert len(known) == len(ids)
    assert known.to_index(ids).tolist() == list(range(len(ids)))
    index = data.draw(st.permutations(range(len(ids))))
    assert known.to_ids(np.array(index, dtype=np.int64)).to_list() == [ids[i] for i in index]


def test_unknown_ids_are_minus_one() -> None:
    known = IdMap([10, 20])
    assert known.to_index([20, 5, 10, 10]).tolist() == [1, -1, 0, 0]
    assert known.to_index([]).tolist() == []
    assert IdMap([]).to_index(["a"]).tolist() == [-1]


def test_text_that_spells_an_integer_finds_the_integer() -> None:
    assert IdMap([10, 20]).to_index(["20", "x"]).tolist() == [1, -1]
    assert IdMap(["10", "x"]).to_index([10]).tolist() == [0]


def test_uuids_are_kept_as_text() -> None:
    one, two = UUID(int=1), UUID(int=2)
    known = IdMap([one, two])
    assert not known.is_integer
    assert known.to_index([two, str(one)]).tolist() == [1, 0]


def test_large_unsigned_integers_stay_exact() -> None:
    known = IdMap(pl.Series([2**64 - 1, 0], dtype=pl.UInt64))
    assert known.is_integer
    assert known.to_index(["18446744073709551615"]).tolist() == [0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1], "1 stands more than once"),
        (["a", "b", "a"], "'a' stands more than once"),
        ([1, None], "1 ids are missing"),
        ([1.5], "values of type Float64"),
        ([True], "values of type Boolean"),
        ([1, "a"], "a mixture"),
        (pl.Series(["a", None], dtype=pl.Categorical), "1 ids are missing"),
        (pl.Series([UUID(int=1), None], dtype=pl.Object), "1 ids are missing"),
        (pl.Series([b"a"], dtype=pl.Object), "integers, strings or UUIDs, got b'a'"),
        (pl.Series([2**70], dtype=pl.Int128), "must be 64-bit integers"),
    ],
)
def test_wrong_ids_are_refused(ids: Ids, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IdMap(ids)


def test_categories_become_text() -> None:
    series = as_id_series(pl.Series(["b", "a"], dtype=pl.Categorical))
    assert series.to_list() == ["b", "a"]
    assert series.dtype == pl.String


@pytest.mark.parametrize("ids", [[3, 1], ["x", "é"], []])
def test_saved_ids_are_read_on_first_use(ids: list[object], tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    IdMap(ids).save(path)
    opened = IdMap(path)
    assert "ids" not in opened.__dict__
    assert opened == IdMap(ids)


def test_brackets_in_a_folders_name_are_no_pattern(tmp_path: Path) -> None:
    path = tmp_path / "a[1]" / "ids.parquet"
    IdMap([3, 1]).save(path)
    assert IdMap(path).ids.to_list() == [3, 1]


def test_a_damaged_file_of_ids_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    for content in (b"", b"PAR1 nonsense"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"ids\.parquet"):
            len(IdMap(path))
    pl.DataFrame({"other": [1]}).write_parquet(path)
    with pytest.raises(ArtifactError, match=r"ids\.parquet"):
        len(IdMap(path))
    with pytest.raises(ArtifactError, match=r"none\.parquet"):
        len(IdMap(tmp_path / "none.parquet"))
