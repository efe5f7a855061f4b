"""The JSON manifest inside every folder that coterie writes: format, version, sizes, hashes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coterie.errors import ArtifactError
from coterie.files import MANIFEST, sha256

__all__ = ["MANIFEST", "needs", "read_json", "read_manifest", "write_manifest"]


def write_manifest(folder: Path, format_: str, version: int, facts: dict[str, Any]) -> None:
    """Write ``folder/manifest.json`` with ``facts`` and the size and hash of each file there."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
        if file.is_file()
    }
    manifest = {"format": format_, "version": version, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def read_manifest(
    path: Path, format_: str, version: int, *, made_by: str, verify: bool
) -> dict[str, Any]:
    """Read and check ``path/manifest.json``: format, version, files' sizes and, asked, hashes.

    Parameters
    ----------
    path
        The folder.
    format_, version
        What it must be.
    made_by
        The command that writes such folders, for who has an older one.
    verify
        Whether to compare the files' hashes.

    Raises
    ------
    ArtifactError
        Something is missing, damaged, edited or of another version; the message says what.
    """
    file = path / MANIFEST
    if not file.is_file():
        what = "is not a folder that coterie wrote" if path.exists() else "does not exist"
        model = path / "model"  # of a training run
        hint = f" Did you mean {model}?" if (model / MANIFEST).is_file() else ""
        raise ArtifactError(f"{path} {what}: {file.name} is missing.{hint}")
    manifest = read_json(file)
    needs(file, manifest, ("format", "version", "files"))
    _refuse_others(file, manifest, format_, version, made_by)
    try:
        files = {
            str(name): (int(facts["bytes"]), str(facts["sha256"]))
            for name, facts in manifest["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"{file} is damaged: 'files' must give the 'bytes' and 'sha256' of each file."
        ) from error
    for name, (size, hash_) in files.items():
        part = path / name
        if Path(name).name != name or not part.is_file():
            raise ArtifactError(f"{path}: the manifest names {name!r}, which is not there.")
        if part.stat().st_size != size:
            raise ArtifactError(
                f"{part} is truncated or edited: {part.stat().st_size} bytes, "
                f"the manifest says {size}."
            )
        if verify and sha256(part) != hash_:
            raise ArtifactError(f"{part} was edited: its SHA-256 is not the manifest's.")
    return manifest


def _refuse_others(
    file: Path, manifest: dict[str, Any], format_: str, version: int, made_by: str
) -> None:
    if manifest["format"] != format_:
        raise ArtifactError(f"{file}: expected the format {format_}, got {manifest['format']}.")
    found = manifest["version"]
    if found == version:
        return
    what = f"{file} has version {found} of the format {format_}, and version {version} is read here"
    if isinstance(found, int) and found < version:
        raise ArtifactError(
            f"{what}: it was made by an older version of coterie. Make it again: `{made_by}`."
        )
    raise ArtifactError(f"{what}: it was made by a newer version of coterie, or edited.")


def read_json(file: Path) -> dict[str, Any]:
    """The table that a JSON file of coterie holds.

    Raises
    ------
    ArtifactError
        It cannot be read, or holds something else; the message says what.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        where = ""
        if isinstance(error, json.JSONDecodeError):
            where = f" from line {error.lineno}, column {error.colno} on"
        raise ArtifactError(f"{file} is damaged: it is no valid JSON{where}.") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{file} is damaged: it must hold a table, {{…}}.")
    return values


def needs(file: Path, values: dict[str, Any], keys: Iterable[str]) -> None:
    """Raise :class:`ArtifactError` that names those of ``keys`` that ``values`` lacks."""
    lacking = [repr(key) for key in keys if key not in values]
    if lacking:
        raise ArtifactError(f"{file} is damaged: it lacks {', '.join(lacking)}.")
