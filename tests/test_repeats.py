"""A folder of records: claimed for one thing, not to be taken for another."""

import numpy as np
import pytest

from coterie.errors import ConfigError, StorageError
from coterie.repeats import RecordFolder, differences


def folder(path, *, format_="coterie-a", version=1):
    return RecordFolder(path, format_=format_, version=version, what="test")


def test_another_kind_or_version_is_refused(tmp_path):
    folder(tmp_path / "x").claim({"of": 1})
    folder(tmp_path / "x").claim({"of": 1})
    for other in ({"format_": "coterie-b"}, {"version": 2}):
        with pytest.raises(StorageError, match="not of a test that this version"):
            folder(tmp_path / "x", **other).claim({"of": 1})
    with pytest.raises(ConfigError, match="another test: of is 1 there and 2 here"):
        folder(tmp_path / "x").claim({"of": 2})


def test_seeds_and_values(tmp_path):
    made = folder(tmp_path)
    assert (made.seeds(), made.read(0, "a")) == ([], None)
    made.write(10, "a-b-c", {"x": np.float64(0.5), "y": [np.nan, np.int64(3)], "z": np.inf})
    made.write(9, "a", {})
    made.write(9, "b", {})
    assert made.seeds() == [9, 10]
    assert made.read(10, "a-b-c") == {
        "seed": 10,
        "setting": "a-b-c",
        "x": 0.5,
        "y": [None, 3],
        "z": None,
    }


def test_differences_name_at_most_three():
    there = {"a": 1, "b": {"c": [1, 2], "d": 0}, "e": 5, "f": 6}
    assert differences(there, {**there, "b": {"c": (1, 2), "d": 0}}) == ""
    found = differences(there, {"a": 2, "b": {"c": [1], "d": 0}, "g": 1})
    assert found == "a is 1 there and 2 here; b.c is [1, 2] there and [1] here; " + (
        "g is None there and 1 here"
    )
