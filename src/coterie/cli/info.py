"""``coterie info``: what a file or folder is, and what is in it."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.options import Json
from coterie.cli.output import Output, facts_table
from coterie.cli.paths import DATA_FORMAT, MODEL, MODEL_FORMAT, SPLIT_FORMAT, format_of
from coterie.cli.prepare import data_facts
from coterie.cli.split import split_facts
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import ArtifactError, DataError

EXAMPLES = """\
PATH is a data set, a split, a model, a run or a checkpoint. Sizes are always
checked, the files' hashes with --verify.

Examples:
  coterie info data
  coterie info run --json
  coterie info run/model --verify
"""

CHECKPOINT = ".safetensors"

app = new_app("info", EXAMPLES)


@app.default
def info(
    path: Annotated[Path, Parameter(help="The file or folder.")],
    /,
    *,
    verify: Annotated[
        bool, Parameter(negative="", show_default=False, help="Compare the files' hashes.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a file or folder of coterie is, and what is in it."""
    facts = describe(path, verify=verify)
    Output(as_json=json).result({"path": str(path), **facts}, facts_table(str(path), facts))


def describe(path: Path, *, verify: bool) -> dict[str, Any]:
    """The facts; ``kind`` says what it is.

    Raises
    ------
    DataError
        Nothing of coterie is there.
    ArtifactError
        It is damaged.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    format_ = format_of(path)
    if format_ == DATA_FORMAT:
        return {"kind": "data set", **data_facts(Interactions.open(path, verify=verify))}
    if format_ == SPLIT_FORMAT:
        return {"kind": "split", **split_facts(Split.open(path, verify=verify))}
    if format_ == MODEL_FORMAT:
        return _model(path, verify=verify)
    if (path / f"last{CHECKPOINT}").is_file():
        return _run(path)
    if format_of(path / MODEL) == MODEL_FORMAT:  # of a baseline, which has no checkpoints
        return _model(path / MODEL, verify=verify)
    if path.suffix == CHECKPOINT:
        return _checkpoint(path)
    raise DataError(
        f"{path} is nothing that coterie wrote; expected a data set, a split, a model, a run or "
        "a checkpoint."
    )


def _model(path: Path, *, verify: bool) -> dict[str, Any]:
    from coterie.recommender import Recommender  # torch takes its time; only here is it needed

    facts = Recommender.load(path, device="cpu", verify=verify).info()
    facts.pop("device")
    return {"kind": "model", **facts}


def _run(path: Path) -> dict[str, Any]:
    last = _checkpoint(path / f"last{CHECKPOINT}")
    last["kind"] = "run"
    finished = (path / MODEL).is_dir()
    return {
        **last,
        "model_folder": str(path / MODEL) if finished else None,
        "continue": None if finished else f"coterie train --resume --out {path}",
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a readable checkpoint: {error}.") from error
    if header.get("format") != "coterie-checkpoint":
        raise ArtifactError(f"{path} is a safetensors file, but no checkpoint of coterie.")
    try:
        return _of_header(header)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is damaged or was edited: its header is not a checkpoint's ({error!r})."
        ) from error


def _of_header(header: dict[str, str]) -> dict[str, Any]:
    progress = json_module.loads(header["progress"])
    belongs_to = json_module.loads(header["belongs_to"])
    users, items, interactions, _ = belongs_to["data"]
    return {
        "kind": "checkpoint",
        "step": progress["step"],
        "epochs": len(progress["history"]),
        "best_epoch": progress["best_epoch"],
        "best_value": progress["best_value"],
        "last_epoch": progress["history"][-1] if progress["history"] else None,
        "trained_on": {"users": users, "items": items, "interactions": interactions},
        "precision": belongs_to["precision"],
        "device": belongs_to["device"],
        **belongs_to["experiment"],
    }
