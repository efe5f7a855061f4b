"""Paths on the command line: what may be written where, and where a model is."""

import json
import shutil
from pathlib import Path
from typing import Any

from coterie.data import interactions, parts
from coterie.errors import ArtifactError, DataError, StorageError
from coterie.manifest import MANIFEST

DATA_FORMAT, SPLIT_FORMAT = interactions.FORMAT, parts.FORMAT
MODEL_FORMAT = "coterie-model"  # coterie.artifact.FORMAT; that module would import torch
MODEL = "model"  # of a run's folder
COMMANDS = {
    DATA_FORMAT: "coterie prepare",
    SPLIT_FORMAT: "coterie split",
    MODEL_FORMAT: "coterie train",
}
KINDS = {DATA_FORMAT: "a data set", SPLIT_FORMAT: "a split", MODEL_FORMAT: "a model"}


def refuse_foreign(path: Path, format_: str) -> None:
    """Before deleting a folder: raise unless it is absent, empty, or of this format.

    Raises
    ------
    StorageError
        ``path`` is a link, a file, or a folder whose manifest does not name the format.
    """
    if not path.is_symlink():
        if not path.exists() or format_of(path) == format_:
            return
        if path.is_dir() and not any(path.iterdir()):
            return
    raise StorageError(
        f"{path} is not {KINDS[format_]} that coterie wrote; --overwrite does not delete it. "
        "Move it away, or choose another folder."
    )


def remove(paths: list[Path]) -> None:
    """Delete those of the files and folders that exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def format_of(path: Path) -> str | None:
    """The format that the folder's manifest names; None if it has no readable manifest."""
    try:
        manifest: Any = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return str(manifest.get("format")) if isinstance(manifest, dict) else None


def require_format(path: Path, format_: str) -> None:
    """Raise, naming what ``path`` is instead and the command that writes the format."""
    if not path.exists():
        raise DataError(
            f"There is no {KINDS[format_].removeprefix('a ')} at {path}, which does not exist; "
            f"`{COMMANDS[format_]}` writes one."
        )
    found = format_of(path)
    if found is not None and found != format_:
        raise ArtifactError(
            f"{path} is {KINDS.get(found, found)}; expected {KINDS[format_]}, as "
            f"`{COMMANDS[format_]}` writes it."
        )
    if found is None and not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path} is not {KINDS[format_]}: {MANIFEST} is missing. "
            f"`{COMMANDS[format_]}` writes one."
        )


def model_folder(path: Path) -> Path:
    """The model's folder, given it or the folder of the run that trained it."""
    inner = path / MODEL
    if path.is_dir() and not (path / MANIFEST).exists():
        if inner.is_dir():
            path = inner
        elif (path / "last.safetensors").is_file():
            raise ArtifactError(
                f"The run in {path} has not finished, so there is no model yet; continue it: "
                f"coterie train --resume --out {path}"
            )
    require_format(path, MODEL_FORMAT)
    return path
