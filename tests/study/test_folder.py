"""A study's folder: claimed once for one study, records whole or absent."""

import json
import math

import pytest
from study_records import record

from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.study.folder import RunRecord, StudyFolder

IDENTITY = {"study": {"beta": 0.2, "betas": (0.1, 1.0)}, "data": {"checksum": [1, 2]}}


@pytest.fixture
def folder(tmp_path):
    made = StudyFolder(tmp_path / "study")
    made.claim(IDENTITY)
    return made


def test_same_study_again(folder):
    before = (folder.path / "settings.json").stat().st_mtime_ns
    folder.claim(IDENTITY)
    assert (folder.path / "settings.json").stat().st_mtime_ns == before


def test_another_study_is_refused_and_the_difference_named(folder):
    other = {**IDENTITY, "study": {"beta": 0.5, "betas": (0.1, 1.0)}}
    with pytest.raises(ConfigError, match=r"study\.beta is 0\.2 there and 0\.5 here"):
        folder.claim(other)
    with pytest.raises(ConfigError, match="checksum"):
        folder.claim({**IDENTITY, "data": {"checksum": [1, 3]}})


def test_a_folder_of_something_else_is_spared(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="no study"):
        StudyFolder(tmp_path).claim(IDENTITY)
    (tmp_path / "settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(StorageError, match=r"settings\.json"):
        StudyFolder(tmp_path).claim(IDENTITY)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "settings.json"]
    with pytest.raises(StorageError):
        StudyFolder(tmp_path / "notes.txt").claim(IDENTITY)


def test_round_trip(folder):
    made = record("pia", 3, ndcg=0.25, measures={"drift": {"drift": 0.5, "se": math.nan}})
    folder.save(made)
    found = folder.load(3, "pia")
    assert found.metric("ndcg@100") == 0.25
    assert found.figure("drift", "drift") == 0.5
    assert math.isnan(found.figure("drift", "se"))
    assert math.isnan(found.figure("none", "none"))
    assert found.users("5–10") == {"a": 0.25, "b": 0.25}
    assert found.users(">10") == {"c": 0.25, "d": 0.25}
    assert found.seconds == 13
    assert folder.load(4, "pia") is None


def test_a_write_that_fails_leaves_no_record(folder):
    unwritable = RunRecord(0, "pia", {"test": object()})
    with pytest.raises(TypeError):
        folder.save(unwritable)
    assert not folder.file(0, "pia").exists()
    assert list((folder.path / "runs").iterdir()) == []


@pytest.mark.parametrize("text", ["", '{"seed": 0', "[]", '{"seed": 1, "setting": "pia"}'])
def test_damaged_record(folder, text):
    folder.save(record("pia", 0))
    folder.file(0, "pia").write_text(text)
    with pytest.raises(ArtifactError, match="Delete it"):
        folder.load(0, "pia")


def test_only_whole_seeds_are_finished(folder):
    for seed, key in ((0, "clean"), (0, "pia"), (1, "clean"), (7, "pia"), (7, "clean")):
        folder.save(record(key, seed))
    (folder.path / "runs" / ".seed-9-pia.json.123.part").write_text("{")
    found = [(one.seed, one.key) for one in folder.finished(["clean", "pia"])]
    assert found == [(0, "clean"), (0, "pia"), (7, "clean"), (7, "pia")]


def test_seeds_are_no_part_of_the_claim(folder):
    assert "seeds" not in json.loads((folder.path / "settings.json").read_text())
