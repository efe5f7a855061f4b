"""Tuning several models on one split, each with the same budget, in a folder that resumes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coterie.data.parts import Split
from coterie.errors import ConfigError, StorageError
from coterie.training.checkpoint import fingerprint
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import check_data
from coterie.tuning.candidates import Candidate
from coterie.tuning.config import TuneConfig
from coterie.tuning.results import Tuned
from coterie.tuning.search import Step, Watch, search
from coterie.tuning.storage import require_optuna
from coterie.tuning.trials import FILE, LOCK, RUNNING, Trials


def tune(
    candidates: Sequence[Candidate],
    data: Split,
    folder: Path | str,
    *,
    config: TuneConfig | None = None,
    context: RunContext | None = None,
    watch: Watch | None = None,
    progress: Callable[[Step], None] | None = None,
) -> list[Tuned] | None:
    """Search each model's settings until its budget is spent; None if it was interrupted.

    The same call goes on where an earlier one stopped. Several processes may make it at once: they
    share the trials, and the budget is that of all together.

    Parameters
    ----------
    candidates
        The models, each once.
    data
        Training and validation users; nothing of the test part is read.
    folder
        Keeps ``study.sqlite``.
    config
        Budget (of each model), seed, pruning.
    context
        Device and precision.
    watch
        Observes the training of each trial.
    progress
        Told about each trial that is finished here.

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    DataError
        There is nothing to validate on.
    ConfigError
        A model is named twice, or the folder holds its trials with other settings or data.
    ArtifactError, StorageError
        The folder holds something else, or its SQLite file is damaged or locked.
    """
    require_optuna()
    config, context, folder = config or TuneConfig(), context or RunContext(), Path(folder)
    names = [one.name for one in candidates]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"Name each model once, and one or more; got {' '.join(names)}.")
    check_data(data.train, data.validation)
    _refuse_foreign(folder)
    shared = _shared_identity(data, config, context)
    try:
        for one in candidates:
            with _trials(folder, one, shared, config) as trials:
                if not search(one, data, trials, context=context, watch=watch, progress=progress):
                    return None
    except KeyboardInterrupt:  # between two trials
        return None
    return tuned(candidates, data, folder, config=config, context=context)


def tuned(
    candidates: Sequence[Candidate],
    data: Split,
    folder: Path,
    *,
    config: TuneConfig,
    context: RunContext,
) -> list[Tuned]:
    """What the folder holds of each model; errors as in :func:`tune`."""
    shared = _shared_identity(data, config, context)
    found = []
    for one in candidates:
        with _trials(folder, one, shared, config) as trials:
            found.append(Tuned(one, trials.records(), trials.n_running()))
    return found


def _trials(folder: Path, one: Candidate, shared: dict[str, Any], config: TuneConfig) -> Trials:
    return Trials(
        folder,
        one.name,
        identity={**one.identity(), **shared},
        space=one.space,
        preset=one.preset,
        config=config,
    )


def _shared_identity(data: Split, config: TuneConfig, context: RunContext) -> dict[str, Any]:
    found = fingerprint(Experiment(), data.train, data.validation, context)
    return {
        "data": {
            "name": data.train.name,
            "protocol": data.protocol,
            "settings": data.settings,
            "checksum": found["data"],
        },
        "precision": found["precision"],
        "search": config.model_dump(mode="json", exclude={"trials", "minutes"}),
    }


def _refuse_foreign(folder: Path) -> None:
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if FILE not in found and not found <= {LOCK, RUNNING}:  # which a process beside us may make
        raise StorageError(
            f"{folder} holds files, but no trials of coterie ({FILE}); choose another folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be a folder: {error.strerror}.") from error
