"""The folder of a run: what ``--resume`` goes on from, and what may be written or deleted there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.cli.paths import MODEL, MODEL_FORMAT, format_of, refuse_foreign, remove
from coterie.errors import ArtifactError, ConfigError, StorageError
from coterie.files import atomic_file
from coterie.manifest import MANIFEST, needs, read_json
from coterie.models.baselines import METHODS
from coterie.training.config import Experiment, RunContext
from coterie.training.run_folder import BEST, LAST, METRICS

SETTINGS = "settings.json"
TENSORBOARD, EVENTS = "tensorboard", "tfevents"
CHECKPOINTS = (LAST, BEST, METRICS)
KEYS = ("split", "experiment", "run")  # of the settings


@dataclass(frozen=True)
class RunSettings:
    """What a run is: the split that it trains on, the experiment, device and precision."""

    split: Path
    experiment: Experiment
    context: RunContext

    def save(self, out: Path) -> None:
        """Write what ``--resume`` starts from into the run's folder."""
        values = {
            "split": str(self.split.resolve()),
            "experiment": self.experiment.model_dump(mode="json"),
            "run": self.context.model_dump(mode="json"),
        }
        with atomic_file(out / SETTINGS) as aside:
            aside.write_text(json.dumps(values, indent=2) + "\n")


def settings_of(out: Path, *, needed: bool) -> dict[str, Any]:
    """What a run was started with; nothing if there is no run yet, or, unless needed, no record.

    Raises
    ------
    ArtifactError
        The record is needed and missing, or it is damaged.
    """
    file = out / SETTINGS
    if not (out / LAST).exists() or not (needed or file.exists()):
        return {}
    if not file.exists():
        raise ArtifactError(
            f"{file} is missing; name the split, and the flags that the run was started with: "
            f"coterie train SPLIT --resume --out {out} …"
        )
    try:
        values = read_json(file)
        needs(file, values, KEYS)
        types = tuple(type(values[key]) for key in KEYS)
        if types != (str, dict, dict):
            raise ArtifactError(f"{file} is damaged: it must name a split and hold two tables.")
    except ArtifactError as error:
        raise ArtifactError(f"{error} Begin again (--overwrite).") from error
    return {key: values[key] for key in KEYS}


def refuse_fitted(out: Path) -> None:
    """Raise if the run is a baseline's, which has no checkpoints."""
    if (out / LAST).exists() or format_of(out / MODEL) != MODEL_FORMAT:
        return
    model = read_json(out / MODEL / MANIFEST).get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if isinstance(name, str) and name in METHODS:
        raise ConfigError(f"{out}: {name} was fitted in one go; there is nothing to resume.")


def leave_nothing_useless(out: Path) -> None:
    """After an error before the first checkpoint: no settings without a run, no empty folder."""
    if not (out / LAST).exists():
        (out / SETTINGS).unlink(missing_ok=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def refuse_what_is_there(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise where there is a run, unless it is to be continued or may be deleted."""
    if overwrite and resume:
        raise ConfigError("--resume continues a run, --overwrite drops it; choose one.")
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; a run needs a folder. Choose another path.")
    if format_of(out) is not None:
        raise StorageError(
            f"{out} is a data set, a split or a model, and a run would be mixed into it. Choose "
            "another folder."
        )
    _refuse_foreign_settings(out)
    if overwrite:
        refuse_foreign_run(out)
    elif not resume and any((out / name).exists() for name in (*CHECKPOINTS, MODEL, TENSORBOARD)):
        raise StorageError(
            f"{out} holds a run already; continue it (--resume), begin again (--overwrite), or "
            "choose another folder."
        )


def _refuse_foreign_settings(out: Path) -> None:
    """Raise if settings without a run are not what a run that was killed early leaves behind."""
    file = out / SETTINGS
    if not file.exists() or (out / LAST).exists():
        return
    try:
        ours = set(KEYS) <= set(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise StorageError(
            f"{file} was not written by coterie and would be lost. Move it away, or choose another "
            "folder."
        )


def refuse_foreign_run(out: Path) -> None:
    """Before deleting a run: raise where one of its folders holds what coterie did not write."""
    refuse_foreign(out / MODEL, MODEL_FORMAT)
    events = out / TENSORBOARD
    if events.is_symlink() or (
        events.is_dir() and not all(EVENTS in file.name for file in events.iterdir())
    ):
        raise StorageError(
            f"{events} holds files that coterie did not write; --overwrite does not delete it. "
            "Move it away, or choose another folder."
        )


def remove_run(out: Path) -> None:
    """Delete what training wrote into ``out``, after :func:`refuse_foreign_run`; nothing else."""
    remove([out / name for name in (*CHECKPOINTS, MODEL, TENSORBOARD, SETTINGS)])
