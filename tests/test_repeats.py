"""A folder of records, claimed for one thing and not to be taken for another; and its runs."""

from dataclasses import dataclass

import numpy as np
import pytest

from coterie.errors import ConfigError, StorageError
from coterie.repeats import RecordFolder, differences, repeat


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


@dataclass(frozen=True)
class Timed:
    seconds: float


RUNS = [(seed, key) for seed in (0, 1) for key in ("slow", "fast")]
SECONDS = {"slow": 50.0, "fast": 2.0}


def test_runs_are_done_once_and_in_order():
    kept, done, told = {(0, "fast"): Timed(2.0)}, [], []

    def do(seed, key):
        done.append((seed, key))
        kept[seed, key] = Timed(SECONDS[key])
        return kept[seed, key]

    assert repeat(RUNS, load=lambda *run: kept.get(run), do=do, progress=told.append)
    assert done == [(0, "slow"), (1, "slow"), (1, "fast")]
    assert [(step.done, step.total) for step in told] == [(2, 4), (3, 4), (4, 4)]
    assert [step.record.seconds for step in told] == [50.0, 50.0, 2.0]
    # What is left takes as long as the same key did before.
    assert [step.seconds_left for step in told] == [52.0, 2.0, 0.0]
    assert repeat(RUNS, load=lambda *run: kept.get(run), do=do)
    assert len(done) == 3


def test_of_a_key_that_never_ran_the_average_is_expected():
    told = []
    repeat(RUNS, load=lambda *_: None, do=lambda _, key: Timed(SECONDS[key]), progress=told.append)
    assert told[0].seconds_left == 50.0 * 3


def test_what_another_process_did_meanwhile_is_not_done_again():
    kept, done = {}, []

    def do(seed, key):
        done.append((seed, key))
        kept.update({(seed, key): Timed(1.0), (0, "fast"): Timed(1.0)})
        return kept[seed, key]

    assert repeat(RUNS, load=lambda *run: kept.get(run), do=do)
    assert done == [(0, "slow"), (1, "slow"), (1, "fast")]


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, None])
def test_an_interrupted_run_is_the_last(interrupted):
    done = []

    def do(seed, key):
        done.append((seed, key))
        if len(done) == 2:
            if interrupted is None:
                return None
            raise interrupted
        return Timed(1.0)

    assert not repeat(RUNS, load=lambda *_: None, do=do)
    assert done == RUNS[:2]


def test_interrupted_between_two_runs():
    kept = {}

    def do(*run):
        kept[run] = Timed(1.0)
        return kept[run]

    def stop(step):
        raise KeyboardInterrupt

    assert not repeat(RUNS, load=lambda *run: kept.get(run), do=do, progress=stop)
    assert list(kept) == RUNS[:1]
