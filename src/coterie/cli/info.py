"""``coterie info``: what a file or folder is, and what is in it."""

import json as json_module
from collections.abc import Iterator, Mapping
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
checked, the files' hashes with --verify. Of the settings those are shown that
are not the named model's own; --json has all.

Examples:
  coterie info data
  coterie info run --json
  coterie info run/model --verify
"""

CHECKPOINT = ".safetensors"
TABLES = ("model", "objective", "training")

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
    Output(as_json=json).result(
        {"path": str(path), **facts}, facts_table(str(path), for_people(facts))
    )


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


def for_people(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, with only those settings that are not the named model's own."""
    metadata = dict(facts.get("metadata", {}))
    recorded = metadata.pop("experiment", None)
    tables = recorded if isinstance(recorded, Mapping) else facts
    tables = {key: tables[key] for key in TABLES if isinstance(tables.get(key), Mapping)}
    name = tables.get("model", {}).get("name")
    own = _own_settings(name)
    if own is None:
        return dict(facts)
    changed = dict(_differing(tables, own))
    kept = {key: value for key, value in facts.items() if key not in (*TABLES, "metadata")}
    but = "but for those below" if changed else "throughout"
    kept |= {f"metadata.{key}": value for key, value in metadata.items()}
    return {**kept, "model": name, "settings": f"{name}'s own, {but}", **changed}


def _own_settings(name: Any) -> dict[str, Any] | None:
    """What the named model's settings are unless others are given; None if we know no such."""
    from coterie import presets
    from coterie.models.baselines import METHODS

    if not isinstance(name, str):
        return None
    if name in METHODS:
        return {"model": {"name": name, **METHODS[name].config().model_dump(mode="json")}}
    return presets.experiment(name).model_dump(mode="json") if name in presets.PRESETS else None


def _differing(
    values: Mapping[str, Any], own: Mapping[str, Any], within: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the settings that are others than ``own``."""
    for key, value in values.items():
        usual = own.get(key)
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            yield from _differing(value, usual, f"{within}{key}.")
        elif value != usual:
            yield f"{within}{key}", value


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
