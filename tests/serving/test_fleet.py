"""Models by arm, versions, and folders that must not be trusted."""

import asyncio
import json
import logging
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from served_models import save, small_community

from coterie.errors import ArtifactError, ConfigError
from coterie.experiment.assignment import arm_of
from coterie.experiment.settings import Experiment
from coterie.files import MANIFEST
from coterie.serving.fleet import Fleet
from coterie.serving.metrics import Metrics
from coterie.serving.served import load
from coterie.serving.service import Service
from coterie.serving.settings import ItemFilter, ServeConfig
from coterie.serving.store import Store
from coterie.stored import version_of

NOW = datetime.now(UTC)


def experiment(name="pia", arms=("control", "pia"), **more):
    return Experiment(
        name=name,
        start=NOW - timedelta(days=1),
        end=NOW + timedelta(days=1),
        arms=dict.fromkeys(arms, 1 / len(arms)),
        **more,
    )


def read(folder):
    return load(folder, name="m", filters={}, community=None)


def test_the_control_is_the_default_model_unless_it_has_its_own(model, tmp_path):
    other = save(tmp_path / "other", 1)
    fleet = Fleet({"default": model, "pia": other}, experiments=(experiment(),))
    assert fleet.model_of("pia", "control") == "default"
    assert fleet.model_of("pia", "pia") == "pia"
    own = Fleet({"default": model, "control": other, "pia": other}, experiments=(experiment(),))
    assert own.model_of("pia", "control") == "control"
    assert fleet["pia"].version == own["control"].version != fleet["default"].version


@pytest.mark.parametrize(
    ("folders", "experiments", "expected"),
    [
        ({}, (experiment(),), "'pia' of 'pia' has no model; give --arm pia=MODEL"),
        ({"pai": ""}, (experiment(),), "'pia' of 'pia' has no model.*were given for: pai"),
        ({"pia": ""}, (), "No experiment has an arm 'pia'"),
        ({"pia": ""}, (experiment(), experiment()), "Two experiments are called 'pia'"),
    ],
)
def test_arms_without_model_and_models_without_arm(model, folders, experiments, expected):
    folders = {"default": model, **dict.fromkeys(folders, model)}
    with pytest.raises(ConfigError, match=expected):
        Fleet(folders, experiments=experiments)


def test_users_are_assigned_as_the_hash_says_and_only_while_it_runs(model):
    one = experiment(exposed=0.5)
    fleet = Fleet({"default": model, "pia": model}, experiments=(one,))
    arms = {str(user): fleet.assign(one, str(user), NOW) for user in range(200)}
    assert arms == {user: arm_of(one, user) for user in arms}
    assert set(arms.values()) == {None, "control", "pia"}
    assert fleet.assign(one, "7", one.end) is None
    assert fleet.assign(one, "7", one.start - timedelta(seconds=1)) is None


def test_a_new_version_is_loaded_once_and_a_broken_one_reported_once(tmp_path):
    folder = save(tmp_path / "model", 0)
    fleet = Fleet({"default": folder})
    first = fleet["default"]
    assert fleet.newer(tried={}) == {}
    save(folder, 1)
    found = fleet.newer(tried={})["default"]
    assert found.version == version_of(folder) != first.version
    assert fleet["default"] is first, "the caller decides when it is served"
    fleet.models["default"] = found
    assert fleet.newer(tried={}) == {}
    (folder / "model.safetensors").write_bytes(b"nothing")
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text() + " ")
    failed = fleet.newer(tried={})
    assert failed["default"].startswith(version_of(folder))
    assert fleet.newer(tried=failed) == {}
    shutil.rmtree(folder)
    assert fleet.newer(tried={}) == {}, "what is gone is served on"


@pytest.fixture
def watched(tmp_path):
    """A folder, and a function that looks for a new version and gives the one that is served."""
    folder = save(tmp_path / "model", 0)
    service = Service(
        ServeConfig(), Fleet({"default": folder}), Store(f"sqlite:///{tmp_path}/s.db"), Metrics()
    )

    def served_after_a_look():
        asyncio.run(service.reloader.reload(again=False))
        return service.fleet["default"].version

    yield folder, served_after_a_look
    asyncio.run(service.close())


def test_a_repaired_version_is_served(watched):
    folder, served_after_a_look = watched
    first = version_of(folder)
    save(folder, 1)
    second, weights = version_of(folder), folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert served_after_a_look() == served_after_a_look() == first
    weights.write_bytes(whole)  # the manifest is as it was
    assert served_after_a_look() == second


def test_a_version_that_once_failed_is_served_when_it_comes_back(watched, monkeypatch):
    """It comes back as it was, with the times of its files."""
    folder, served_after_a_look = watched
    save(folder, 1)
    with monkeypatch.context() as failing:
        failing.setattr("coterie.serving.fleet.load", lambda *_, **more: 1 / 0)
        first = served_after_a_look()
    second = version_of(folder)
    assert served_after_a_look() == first != second, "it is not tried each time"
    aside = folder.rename(folder.with_name("aside"))
    third = version_of(save(folder, 2))
    assert served_after_a_look() == third
    shutil.rmtree(folder)
    aside.rename(folder)
    assert served_after_a_look() == second


def test_a_folder_that_vanishes_is_logged_once_and_so_is_its_return(watched, caplog):
    folder, served_after_a_look = watched
    first = version_of(folder)
    aside = folder.with_name("aside")
    with caplog.at_level(logging.INFO, logger="coterie.serving"):
        for _ in range(2):
            folder.rename(aside)
            assert served_after_a_look() == served_after_a_look() == first
            aside.rename(folder)
            assert served_after_a_look() == served_after_a_look() == first
    gone, back, *again = caplog.records
    assert (gone.levelname, gone.model, gone.folder) == ("WARNING", "default", str(folder))
    assert "gone" in gone.getMessage()
    assert gone.served == first
    assert (back.levelname, back.getMessage()) == ("INFO", "the model's folder is back")
    assert [one.getMessage() for one in again] == [gone.getMessage(), back.getMessage()]


def test_memory_is_given_back_when_a_version_has_been_replaced(watched, monkeypatch):
    folder, served_after_a_look = watched
    served = []
    monkeypatch.setattr(
        "coterie.serving.reloader.give_back_freed_memory", lambda: served.append(version_of(folder))
    )
    served_after_a_look()
    assert served == [], "a look that finds nothing costs nothing"
    save(folder, 1)
    assert served_after_a_look() == version_of(folder)
    assert served == [version_of(folder)]


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), RuntimeError("odd")])
def test_an_arm_that_cannot_be_read_does_not_keep_the_others_from_new_versions(
    error, tmp_path, monkeypatch
):
    folders = {name: save(tmp_path / name, 0) for name in ("default", "pia")}
    fleet = Fleet(folders, experiments=(experiment(),))
    for folder in folders.values():
        save(folder, 1)

    def reading(folder, **more):
        if folder == folders["default"]:
            raise error
        return load(folder, **more)

    monkeypatch.setattr("coterie.serving.fleet.load", reading)
    found = fleet.newer(tried={})
    assert found["pia"].version == version_of(folders["pia"])
    assert fleet.newer(tried={"default": found["default"]}).keys() == {"pia"}


def test_a_folder_that_changes_while_it_is_read_is_not_served(tmp_path, monkeypatch):
    folder = save(tmp_path / "model", 0)
    versions = iter(["a", "b"])
    monkeypatch.setattr("coterie.serving.served.version_of", lambda _: next(versions))
    with pytest.raises(ArtifactError, match="was replaced while it was read"):
        read(folder)


def test_the_version_is_that_of_every_file(tmp_path):
    first = version_of(save(tmp_path / "model", 0))
    assert version_of(save(tmp_path / "model", 0)) == first
    assert version_of(save(tmp_path / "model", 1)) != first
    assert version_of(tmp_path) is None


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", ""])
def test_a_manifest_cannot_name_files_elsewhere(name, tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = save(tmp_path / "model")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 6, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="which is not there"):
        read(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "items.parquet", "item_table.parquet"])
def test_links_out_of_the_folder_are_not_followed(file, tmp_path):
    folder = save(tmp_path / "model")
    elsewhere = tmp_path / "elsewhere"
    (folder / file).rename(elsewhere)
    (folder / file).symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="leads out of the model's folder"):
        read(folder)
    (folder / file).unlink()
    elsewhere.rename(folder / "renamed")
    (folder / file).symlink_to("renamed")
    assert read(folder).ids, "a link within the folder is its own matter"


def test_a_manifest_full_of_nonsense_runs_and_writes_nothing(tmp_path):
    """Settings that a pickle or a template would obey are text here."""
    folder = save(tmp_path / "model")
    original = json.loads((folder / MANIFEST).read_text())
    before = sorted(tmp_path.rglob("*"))
    for key, value in (
        ("model", {"name": "__import__('os').system('touch owned')"}),
        ("model", {"py/object": "os.system", "name": "multi-vae"}),
        ("n_items", 2**62),
        ("tensors", {"../../x": {"dtype": "F32", "shape": [1]}}),
        ("metadata", "${jndi:ldap://x}"),
        ("files", {"../../x": {"bytes": -1, "sha256": ""}}),
    ):
        (folder / MANIFEST).write_text(json.dumps({**original, key: value}))
        with pytest.raises(ArtifactError):
            read(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_filters_and_community_are_brought_over_to_the_models_items(model):
    served = load(
        model,
        name="m",
        filters={"none": ItemFilter(allow=()), "most": ItemFilter(deny=(1000, "1001", "?"))},
        community=small_community(),
    )
    assert served.barred["none"].all()
    assert served.barred["most"].nonzero()[0].tolist() == [0, 1]
    assert served.community.item_ids == served.recommender.item_ids


def test_a_filter_must_say_something():
    with pytest.raises(ConfigError, match="allow or deny"):
        ItemFilter.read({})
