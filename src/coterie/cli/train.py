"""``coterie train``: a split to a trained model; stopped at any time, continued exactly."""

import json as json_module
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from coterie.cli import baseline
from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Section, Settings, accepts
from coterie.cli.output import Output, facts_table
from coterie.cli.paths import (
    MODEL,
    MODEL_FORMAT,
    SPLIT_FORMAT,
    format_of,
    refuse_foreign,
    remove,
    require_format,
)
from coterie.cli.progress import Display
from coterie.data.parts import HeldOut, Split
from coterie.errors import ArtifactError, ConfigError, CoterieError, StorageError
from coterie.files import atomic_file
from coterie.manifest import MANIFEST, needs, read_json
from coterie.models.baselines import METHODS
from coterie.models.model import BaselineConfig
from coterie.presets import PRESETS, resolved
from coterie.training.config import Experiment, RunContext
from coterie.training.logging import Observers, TensorBoardObserver
from coterie.training.loop import Observer, TrainingResult, check_data
from coterie.training.loop import train as run_training
from coterie.training.run_folder import BEST, LAST, METRICS

EXAMPLES = """\
SPLIT is a folder of `coterie split`. RUN (--out) gets checkpoints,
metrics.jsonl, settings.json and, when training has ended, the model of the best
epoch. Ctrl-C stops cleanly; --resume goes on as if nothing had happened, with
the run's own settings.

--model takes a model by its name in the literature, with all its settings, over
which go the file's and other flags; each VAE with +pia, item alignment (PIA). A
baseline has flags of its own (--ease.l2), is fitted in one go on the CPU, and
leaves only its model in RUN.

A weight (--beta, --lambda-a) is a schedule: .kind is constant, linear (or
warm-up, the same), geometric or delayed; it goes from .start to .end in .epochs
epochs, delayed all at once when they are over.

Examples:
  coterie train split --out run                          Multi-VAE
  coterie train split --out run --lambda-a 1             with item alignment (PIA)
  coterie train split --out run --model recvae+pia --gamma 0.0035
  coterie train split --out run --model multi-dae --hidden-dims 600 300
  coterie train split --out run --model ease --ease.l2 300
  coterie train split --out run --config run.toml --epochs 20 --device cpu
  coterie train --resume --out run

run.toml:
  [model]
  latent_dim = 100
  [objective]
  alignment = {kind = "linear", end = 1.0, epochs = 10}
  [training]
  epochs = 50
  [run]
  precision = "fp32"
"""

RUN_FILES = (LAST, BEST, METRICS)
SETTINGS = "settings.json"
TENSORBOARD, EVENTS = "tensorboard", "tfevents"
EXPERIMENT = Section(
    Experiment,
    "Experiment",
    flags={
        "model.name": ("--model",),
        # The longer name first: cyclopts takes what follows a shorter one for a key of its value.
        "objective.beta.end": ("--beta.end", "--beta"),
        "objective.alignment.end": ("--lambda-a", "--alignment.end"),
    },
    types={"model.name": Literal[(*PRESETS, *METHODS)]},
    resolve=resolved,
)
CONTEXT = Section(RunContext, "Run", at="run")

app = new_app("train", EXAMPLES)


@app.default
@accepts(EXPERIMENT, CONTEXT, *baseline.SECTIONS)
def train(
    split: Annotated[
        Path | None, Parameter(help="The split; with --resume, the run's own.")
    ] = None,
    /,
    *,
    out: Annotated[Path, Parameter(help="RUN, the folder to write.")],
    settings: Settings,
    resume: Annotated[
        bool, Parameter(negative="", show_default=False, help="Continue the run in RUN.")
    ] = False,
    tensorboard: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Write RUN/tensorboard too."),
    ] = False,
    config: ConfigFile = None,
    overwrite: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Begin again, dropping RUN's old run."),
    ] = False,
    json: Json = False,
) -> int:
    """Train a recommender on a split: a VAE, or a baseline to compare it with."""
    output = Output(as_json=json)
    simple = baseline.chosen(settings)
    if simple is not None:
        if resume or tensorboard:
            raise ConfigError(
                f"{simple.name} is fitted in one go: there is nothing to resume, and no curve for "
                "TensorBoard."
            )
        return _fit(simple, split, out, output, overwrite=overwrite)
    if resume:
        _refuse_fitted(out)
    before = _settings_of(out, needed=split is None) if resume else {}
    experiment = settings.read(Experiment, before.get("experiment"))
    context = settings.read(RunContext, before.get("run"))
    source = split or (Path(before["split"]) if "split" in before else None)
    if source is None:
        nothing = f"{out} holds no run to continue. " if resume else ""
        raise ConfigError(f"{nothing}Which split to train on? coterie train SPLIT --out RUN")
    require_format(source, SPLIT_FORMAT)
    data = Split.open(source, verify=True)
    writer = TensorBoardObserver(out / TENSORBOARD) if tensorboard else None  # writes later
    _refuse_what_is_there(out, resume=resume, overwrite=overwrite)
    context.torch_device()
    check_data(data.train, _validation(data))
    if overwrite:  # the last thing before training: no mistake costs the old run
        remove_run(out)

    def accepted() -> None:
        keep_settings(out, source, experiment, context)

    try:
        result = _train(
            data, experiment, context, out, resume=resume, writer=writer, on_start=accepted
        )
    except CoterieError:
        _leave_nothing_useless(out)
        raise
    if result.interrupted:
        output.note(
            f"stopped; checkpoint in {out / LAST}; continue with --resume: "
            f"coterie train --resume --out {out}"
        )
        return 130
    result.recommender.save(out / MODEL, overwrite=True)
    facts = result_facts(result, experiment)
    output.result(
        {"run": str(out), "model": str(out / MODEL), **facts},
        facts_table(f"model: {out / MODEL}", facts),
        *_more(result, out),
        f"Next: coterie evaluate {out} {source}",
    )
    return 0


def _fit(
    config: BaselineConfig, source: Path | None, out: Path, output: Output, *, overwrite: bool
) -> int:
    if source is None:
        raise ConfigError("Which split to train on? coterie train SPLIT --out RUN")
    require_format(source, SPLIT_FORMAT)
    data = Split.open(source, verify=True)
    _refuse_what_is_there(out, resume=False, overwrite=overwrite)
    recommender, facts = baseline.fitted(config, data, output)
    if overwrite:  # the last thing before saving: no mistake costs the old run
        remove_run(out)
    recommender.save(out / MODEL)
    output.result(
        {"run": str(out), "model": str(out / MODEL), **facts},
        facts_table(f"model: {out / MODEL}", facts),
        f"Next: coterie evaluate {out} {source}",
    )
    return 0


def _train(
    data: Split,
    experiment: Experiment,
    context: RunContext,
    out: Path,
    *,
    resume: bool,
    writer: TensorBoardObserver | None,
    on_start: Callable[[], None],
) -> TrainingResult:
    with ExitStack() as stack:
        display = Display(Console(stderr=True, highlight=False))
        observers: list[Observer] = [stack.enter_context(display.running())]
        if writer is not None:
            observers.append(stack.enter_context(writer))
        return run_training(
            data.train,
            _validation(data),
            experiment,
            context=context,
            folder=out,
            resume=resume,
            observer=Observers(*observers),
            on_start=on_start,
        )


def _validation(data: Split) -> HeldOut | None:
    return data.validation if data.validation.held_out.nnz else None


def result_facts(result: TrainingResult, experiment: Experiment) -> dict[str, Any]:
    """How long it trained, and how good the best epoch is on the validation users."""
    return {
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        f"validation_{experiment.training.metric}": result.best_value,
    }


def _more(result: TrainingResult, out: Path) -> list[str]:
    """How to go on, if validation had not stopped rising when the epochs were over."""
    epochs = len(result.history)
    if result.best_epoch != epochs:
        return []
    return [
        "The best epoch is the last: more may help: "
        f"coterie train --resume --out {out} --epochs {2 * epochs}"
    ]


def _settings_of(out: Path, *, needed: bool) -> dict[str, Any]:
    """What a run was started with; nothing if there is no run yet, or, unless needed, no record."""
    file = out / SETTINGS
    if not (out / LAST).exists() or not (needed or file.exists()):
        return {}
    if not file.exists():
        raise ArtifactError(
            f"{file} is missing; name the split, and the flags that the run was started with: "
            f"coterie train SPLIT --resume --out {out} …"
        )
    keys = ("split", "experiment", "run")
    try:
        values = read_json(file)
        needs(file, values, keys)
    except ArtifactError as error:
        raise ArtifactError(f"{error} Begin again (--overwrite).") from error
    return {key: values[key] for key in keys}


def _refuse_fitted(out: Path) -> None:
    """Raise if the run is a baseline's, which has no checkpoints."""
    if (out / LAST).exists() or format_of(out / MODEL) != MODEL_FORMAT:
        return
    model = read_json(out / MODEL / MANIFEST).get("model")
    name = model.get("name") if isinstance(model, dict) else None
    if isinstance(name, str) and name in METHODS:
        raise ConfigError(f"{out}: {name} was fitted in one go; there is nothing to resume.")


def keep_settings(out: Path, source: Path, experiment: Experiment, context: RunContext) -> None:
    """Write what ``--resume`` starts from into the run's folder."""
    values = {
        "split": str(source.resolve()),
        "experiment": experiment.model_dump(mode="json"),
        "run": context.model_dump(mode="json"),
    }
    with atomic_file(out / SETTINGS) as aside:
        aside.write_text(json_module.dumps(values, indent=2) + "\n")


def _leave_nothing_useless(out: Path) -> None:
    """After an error before the first checkpoint: no settings without a run, no empty folder."""
    if not (out / LAST).exists():
        (out / SETTINGS).unlink(missing_ok=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _refuse_what_is_there(out: Path, *, resume: bool, overwrite: bool) -> None:
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
    elif not resume and any((out / name).exists() for name in (*RUN_FILES, MODEL, TENSORBOARD)):
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
        ours = {"split", "experiment", "run"} <= set(json_module.loads(file.read_text()))
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
    remove([out / name for name in (*RUN_FILES, MODEL, TENSORBOARD, SETTINGS)])
