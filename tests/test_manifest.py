"""A folder that was damaged, edited or written by another version is not opened."""

import json
from pathlib import Path

import pytest

from coterie.errors import ArtifactError
from coterie.manifest import MANIFEST, needs, read_json, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(b"12345")
    write_manifest(tmp_path, "coterie-test", 3, {"name": "x"})
    return tmp_path


def read(folder: Path, *, verify: bool = False) -> dict[str, object]:
    return read_manifest(folder, "coterie-test", 3, made_by="coterie test", verify=verify)


def test_facts_and_files_are_recorded(folder: Path) -> None:
    manifest = read(folder, verify=True)
    assert manifest["name"] == "x"
    assert set(manifest["files"]) == {"a.bin"}  # type: ignore[call-overload]


def test_other_folders_are_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read(folder / "none")
    with pytest.raises(ArtifactError, match="expected the format coterie-other, got coterie-test"):
        read_manifest(folder, "coterie-other", 3, made_by="coterie other", verify=False)
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="is not a folder that coterie wrote"):
        read(folder)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (2, "made by an older version of coterie. Make it again: `coterie test`."),
        (4, "made by a newer version of coterie, or edited."),
        ("3", "made by a newer version of coterie, or edited."),
    ],
)
def test_another_version_is_told_from_damage(version: object, why: str, folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": version, "files": "others"}))
    with pytest.raises(ArtifactError) as caught:
        read(folder)
    assert str(caught.value) == (
        f"{folder / MANIFEST} has version {version} of the format coterie-test, and version 3 is "
        f"read here: it was {why}"
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense", "\x00", '{"format": "coterie-test", "version": 3, "files": 5}',
     '{"format": "coterie-test", "version": 3, "files": {"a.bin": {}}}',
     '{"format": "coterie-test", "version": 3, "files": {"a.bin": 3}}',
     '{"format": "coterie-test", "version": 3, "files": {"a": {"bytes": Infinity, "sha256": ""}}}',
     "[" * 100_000],
)  # fmt: skip
def test_damaged_manifests_are_refused(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="is damaged"):
        read(folder)


def test_a_manifest_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe{}")
    with pytest.raises(ArtifactError, match="is damaged"):
        read(folder)


def test_truncated_edited_and_missing_files_are_noticed(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"12346")
    read(folder)
    with pytest.raises(ArtifactError, match="was edited"):
        read(folder, verify=True)
    (folder / "a.bin").write_bytes(b"1234")
    with pytest.raises(ArtifactError, match="4 bytes, the manifest says 5"):
        read(folder)
    (folder / "a.bin").unlink()
    with pytest.raises(ArtifactError, match=r"names 'a\.bin', which is not there"):
        read(folder)


def test_names_that_leave_the_folder_are_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {"../a.bin": {"bytes": 5, "sha256": ""}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder.parent / "a.bin").write_bytes(b"12345")
    with pytest.raises(ArtifactError, match="which is not there"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is no valid JSON from line 1, column 2 on"),
        ('{"format": 1,\n "version" 3}', "it is no valid JSON from line 2, column 12 on"),
        ("[" * 100_000, "it is no valid JSON"),
        ("[]", "it must hold a table, {…}"),
        ("{}", "it lacks 'format', 'version', 'files'"),
        ('{"format": "coterie-test", "files": {}}', "it lacks 'version'"),
        (
            '{"format": "coterie-test", "version": 3, "files": {"a.bin": {"bytes": 5}}}',
            "'files' must give the 'bytes' and 'sha256' of each file",
        ),
    ],
)
def test_damage_is_told_in_words(text: str, why: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read(folder)
    assert str(caught.value) == f"{folder / MANIFEST} is damaged: {why}."


def test_json_of_any_kind(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        read_json(file)
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    needs(file, {"a": 1}, ["a"])
    with pytest.raises(ArtifactError, match="it lacks 'b', 'c'"):
        needs(file, {"a": 1}, ["a", "b", "c"])


def test_the_model_of_a_run_is_proposed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match=r"is missing\. Did you mean .*model\?"):
        read(tmp_path)
