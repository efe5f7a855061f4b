"""Codes and sorted ids against plain Python, for every kind of column."""

from datetime import date
from uuid import uuid4

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.data.encode import encode, id_expression, ids_from_objects, usual_bytes
from coterie.errors import DataError

int64 = st.integers(-(2**63), 2**63 - 1)


def collected(series: pl.Series) -> pl.Series:
    frame = series.alias("x").to_frame().lazy()
    return frame.select(id_expression("x", series.dtype)).collect(engine="streaming")["x"]


@given(values=st.lists(st.one_of(int64, st.integers(-5, 5)), min_size=1))
def test_integers(values: list[int]) -> None:
    coded = encode(collected(pl.Series(values, dtype=pl.Int64)))
    assert coded.ids.to_list() == sorted(set(values))
    assert coded.codes.dtype == np.int32
    assert coded.ids.gather(coded.codes).to_list() == values


@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_unsigned_integers(values: list[int]) -> None:
    coded = encode(collected(pl.Series(values, dtype=pl.UInt64)))
    assert coded.ids.to_list() == sorted(set(values))
    assert coded.ids.gather(coded.codes).to_list() == values


@given(values=st.lists(st.text(max_size=4), min_size=1))
def test_text(values: list[str]) -> None:
    coded = encode(collected(pl.Series(values)), id_type="string")
    assert coded.ids.to_list() == sorted(set(values))
    assert coded.ids.gather(coded.codes).to_list() == values


@given(values=st.lists(int64, min_size=1))
def test_integers_as_text(values: list[int]) -> None:
    coded = encode(collected(pl.Series(values, dtype=pl.Int64)), id_type="string")
    assert coded.ids.to_list() == sorted({str(value) for value in values})
    assert coded.ids.gather(coded.codes).to_list() == [str(value) for value in values]


@given(values=st.lists(st.sampled_from(["1", "01", "+1", "2", "-2", "-02", "x"]), min_size=1))
def test_text_that_spells_integers(values: list[str]) -> None:
    series = collected(pl.Series(values))
    numbers = {text: int(text) for text in values if text != "x"}
    if "x" in values:
        assert encode(series).ids.to_list() == sorted(set(values))
    elif len(set(numbers.values())) < len(numbers):
        with pytest.raises(DataError, match="are different ids that clash"):
            encode(series)
    else:
        usual = all(str(number) == text for text, number in numbers.items())
        expected = sorted(numbers.values()) if usual else sorted(numbers)
        assert encode(series).ids.to_list() == expected
        assert encode(series, id_type="integer").ids.to_list() == sorted(numbers.values())


@given(values=st.lists(st.one_of(int64, st.integers(-1000, 1000))))
def test_usual_bytes_are_those_of_the_usual_spelling(values: list[int]) -> None:
    smallest = -(2**63)  # its absolute value is no int64: read as categories instead
    kept = [value for value in values if value != smallest]
    expected = sum(len(str(value)) for value in kept)
    assert usual_bytes(np.array(kept, dtype=np.int64)) == expected


def test_whole_floats_are_integers_and_others_refused() -> None:
    assert encode(pl.Series("x", [3.0, -1.0])).ids.to_list() == [-1, 3]
    for wrong in (0.5, float("nan"), float("inf"), 2.0**60):
        with pytest.raises(DataError, match="row 2: ids must be whole numbers"):
            encode(pl.Series("x", [3.0, wrong]))


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a", "unused"])])
def test_categories_are_text(dtype: pl.DataType) -> None:
    coded = encode(collected(pl.Series(["b", "a", "b"], dtype=dtype)))
    assert coded.ids.to_list() == ["a", "b"]
    assert coded.codes.tolist() == [1, 0, 1]


def test_sixteen_bytes_are_a_uuid_and_others_hexadecimal() -> None:
    one = uuid4()
    coded = encode(collected(pl.Series([one.bytes, b"\xab"])))
    assert sorted([str(one), "ab"]) == coded.ids.to_list()


@pytest.mark.parametrize(
    "values", [[True], [date(2020, 1, 1)], [[1]], [{"a": 1}]], ids=["bool", "date", "list", "x"]
)
def test_other_types_are_refused(values: list[object]) -> None:
    series = pl.select(pl.lit(values[0]).alias("x"))["x"]
    with pytest.raises(DataError, match="ids must be integers, strings or UUIDs"):
        id_expression("x", series.dtype)


def test_objects() -> None:
    one = uuid4()
    assert ids_from_objects([1, None, np.int64(2)], "x").to_list() == [1, None, 2]
    assert ids_from_objects([one, "a"], "x").to_list() == [str(one), "a"]
    assert ids_from_objects([1, "a"], "x").to_list() == ["1", "a"]
    assert ids_from_objects([2**70, 1], "x").to_list() == [2**70, 1]
    assert ids_from_objects([], "x").to_list() == []
    with pytest.raises(DataError, match=r"row 2: .* got 1\.5 of type float"):
        ids_from_objects([1, 1.5], "x")
    with pytest.raises(DataError, match="1 and '1' are different ids"):
        ids_from_objects([1, "1"], "x")
