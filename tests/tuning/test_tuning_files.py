"""The SQLite file's troubles, search spaces, and what a search leaves."""

import json
import sqlite3
import sys
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuned_models import small, tiny_split

from coterie.cli.options import Settings, read_config
from coterie.cli.train import EXPERIMENT
from coterie.comparison.contestants import VaeContestant
from coterie.data.parts import Split
from coterie.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MissingExtraError,
    StorageError,
)
from coterie.models.baselines import METHODS
from coterie.presets import PRESETS
from coterie.spaces import Choice, Range
from coterie.training.config import Experiment
from coterie.tuning import storage
from coterie.tuning.candidates import MODELS, candidate, knows
from coterie.tuning.config import TuneConfig
from coterie.tuning.records import TrialRecord, best_of, trials_frame
from coterie.tuning.results import Tuned, best_file, best_settings, to_toml, write_results
from coterie.tuning.run import tune
from coterie.tuning.space import OUTSIDE, decoded, encoded, read_entry
from coterie.tuning.trials import FILE


def record(number: int, value: float | None, **settings: Any) -> TrialRecord:
    return TrialRecord(number, "complete", value, 3, 5, 1.5, settings)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install coterie\[tune\]"):
        tune([candidate("ease")], tiny_split(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no data base" * 100)
    with pytest.raises(ArtifactError, match=r"study\.sqlite is damaged.*not a database"):
        tune([candidate("ease")], tiny_split(), tmp_path)


def test_a_file_that_was_cut(tmp_path: Path) -> None:
    split, config = tiny_split(), TuneConfig(trials=1)
    tune([candidate("ease")], split, tmp_path / "t", config=config)
    file = tmp_path / "t" / FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        tune([candidate("ease")], split, tmp_path / "t", config=config)


def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, config = tiny_split(), TuneConfig(trials=1)
    tune([candidate("ease")], split, tmp_path / "t", config=config)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.1)
    more = TuneConfig(trials=2)
    with sqlite3.connect(tmp_path / "t" / FILE, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"locked by another program for 0\.1 s"):
            tune([candidate("ease")], split, tmp_path / "t", config=more)
        holder.execute("ROLLBACK")
    holder.close()
    result = tune([candidate("ease")], split, tmp_path / "t", config=more)
    assert result is not None
    assert len(result[0].records) == 2


def test_the_file_is_in_write_ahead_mode(tmp_path: Path) -> None:
    tune([candidate("ease")], tiny_split(), tmp_path / "t", config=TuneConfig(trials=1))
    connection = sqlite3.connect(tmp_path / "t" / FILE)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_tuned(name: str) -> None:
    """All bounds and options are allowed settings, and the file that results reads as meant."""
    one = candidate(name)
    assert one.space
    assert set(one.preset) == set(one.space)
    assert all(knows(name, key) for key in one.space)
    if name in PRESETS:
        ends = {key: of.values[-1] if isinstance(of, Choice) else of.high
                for key, of in one.space.items()}  # fmt: skip
        contestant = one.contestant(ends)
        assert isinstance(contestant, VaeContestant)
        assert trained_by(to_toml(one.tables(ends))) == contestant.experiment


def trained_by(text: str) -> Experiment:
    """What ``coterie train --config`` reads."""
    return Settings((EXPERIMENT,), {}, tomllib.loads(text)).read(Experiment)


def test_what_has_nothing_to_search() -> None:
    assert [name for name in METHODS if not METHODS[name].config.search] == ["popularity"]
    with pytest.raises(ConfigError, match="popularity has nothing to search; leave it out"):
        candidate("popularity")


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("recvea", {}, "There is no model 'recvea'; did you mean 'recvae'"),
        ("multi-vae", {"fixed": {"objective.bta.end": 1}}, "'bta'; did you mean 'beta'"),
        ("multi-vae", {"search": {"training.epochs": Range(0, 3)}}, "epochs"),
        ("multi-vae", {"search": {"ease.l2": Range(1, 3)}}, "ease"),
        ("ease", {"search": {"ease.l3": Range(1, 3)}}, "has no setting 'l3'"),
        ("ease", {"search": {"training.epochs": Range(1, 3)}}, "ease has no settings training"),
        ("ease", {"fixed": {"ease.l2": 3.0}}, "nothing left to search; fix fewer"),
        ("ease", {"fixed": {"ease.l2": -3.0}}, "nothing left to search"),
        ("multi-dae", {"fixed": {"objective.gamma": 3.0}}, "no KL term"),
    ],
)
def test_wrong_spaces(name: str, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        candidate(name, **changes)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"low": 1, "high": 5}, Range(1, 5)),
        ({"low": 0.1, "high": 1.0, "log": True}, Range(0.1, 1.0, log=True)),
        ([[600], [600, 200]], Choice(([600], [600, 200]))),
    ],
)
def test_entries(value: Any, expected: Range | Choice) -> None:
    assert read_entry("x", value) == expected


@pytest.mark.parametrize(
    "value",
    [
        3, "a", [], [1], {"low": 1}, {"low": 1, "high": 2, "step": 1}, {"low": "a", "high": 2},
        {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": True, "high": 2},
        {"low": 1, "high": 2, "log": 1},
    ],
)  # fmt: skip
def test_entries_that_make_no_sense(value: Any) -> None:
    with pytest.raises(ConfigError):
        read_entry("x", value)


def test_values_and_what_is_kept_of_them() -> None:
    widths = Choice(((), (600,), None, 20))
    for value in ([], [600], None, 20, 20.0):
        assert decoded(widths, encoded(widths, value)) == value
    assert encoded(widths, [601]) is OUTSIDE
    assert encoded(Range(1, 5), 3.0) == 3
    assert isinstance(encoded(Range(1, 5), 3.0), int)
    for strange in (3.5, 6, True, "3", None):
        assert encoded(Range(1, 5), strange) is OUTSIDE
    assert encoded(Range(0.0, 1.0), 1) == 1.0


def test_the_best_trial() -> None:
    first, second = record(1, 0.3), record(3, 0.4)
    assert best_of([first, record(2, None), second, record(4, 0.4)]) == second
    assert best_of([record(1, None)]) is None
    with pytest.raises(DataError, match="No trial of ease reached a validation"):
        _ = Tuned(candidate("ease"), [record(1, None)]).best


def test_files_of_one_model(tmp_path: Path) -> None:
    one = small(objective__beta__epochs=7)
    best = record(2, 0.5, **{"training.learning_rate": 2e-3, "objective.keep_probability": 0.25})
    written = write_results(tmp_path, [Tuned(one, [record(1, 0.1), best])])
    assert [path.name for path in written] == ["best.toml", "trials.json", "trials.parquet"]
    experiment = Settings((EXPERIMENT,), {}, read_config(written[0])).read(Experiment)
    contestant = one.contestant(best.settings)
    assert isinstance(contestant, VaeContestant)
    assert experiment == contestant.experiment
    assert (experiment.training.learning_rate, experiment.objective.beta.epochs) == (2e-3, 7)
    kept = json.loads(written[1].read_text())["multi-vae"]
    assert kept["metric"] == "ndcg@100"
    assert [TrialRecord(**trial) for trial in kept["trials"]] == [record(1, 0.1), best]
    table = pl.read_parquet(written[2])
    assert table["value"].to_list() == [0.1, 0.5]
    assert table["training.learning_rate"].to_list() == [None, 2e-3]


def test_files_of_several_models(tmp_path: Path) -> None:
    found = [Tuned(candidate("ease"), [record(1, 0.1, **{"ease.l2": 70.5})]),
             Tuned(candidate("recvae+pia"), [record(1, 0.2)])]  # fmt: skip
    names = [path.name for path in write_results(tmp_path, found)[:2]]
    assert names == ["best-ease.toml", "best-recvae+pia.toml"]
    assert tomllib.loads((tmp_path / names[0]).read_text()) == {
        "model": {"name": "ease"},
        "ease": {"l2": 70.5},
    }
    assert best_file(tmp_path, "ease", alone=True).name == "best.toml"
    assert pl.read_parquet(tmp_path / "trials.parquet")["model"].to_list() == ["ease", "recvae+pia"]


def test_another_metric_is_part_of_the_file() -> None:
    one = candidate("multi-vae", metric="recall@20")
    text = best_settings(Tuned(one, [record(1, 0.2)]))
    assert trained_by(text).training.metric == "recall@20"
    assert "validation recall@20 0.2000 (trial 1, epoch 3 of 5)" in text


def test_lists_in_the_table_are_text() -> None:
    frame = trials_frame("m", [record(1, None, widths=[600, 200], rate=1), record(2, 0.5, rate=2)])
    assert frame["widths"].to_list() == ["600 200", None]


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    st.lists(st.integers(-9, 9), max_size=3),
)
NAMES = st.text(st.sampled_from("abc-_.é 1"), min_size=1, max_size=5)


TABLES = st.recursive(
    st.dictionaries(NAMES, SCALARS, min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=2),
)


@given(TABLES)
def test_toml_reads_back(tables: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tables)) == tables


def test_none_is_what_flags_take() -> None:
    text = to_toml({"training": {"patience": None}})
    assert text == '[training]\npatience = "none"\n'


def test_a_split_can_be_opened_without_its_test_part(tmp_path: Path) -> None:
    split = tiny_split()
    path = split.save(tmp_path / "s")
    for part in ("test_fold_in", "test_held_out"):
        for file in (path / part).iterdir():
            file.unlink()
    opened = Split.open(path, verify=True, test=False)
    assert opened.validation.held_out.nnz == split.validation.held_out.nnz
    assert opened.test.n_users == 0
    with pytest.raises(ArtifactError):
        Split.open(path, verify=True)
