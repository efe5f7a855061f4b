"""``coterie train``: a split to a trained model; stopped at any time, continued exactly."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from coterie.cli import baseline
from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Section, Settings, accepts
from coterie.cli.output import Output, facts_table
from coterie.cli.paths import MODEL, SPLIT_FORMAT, require_format
from coterie.cli.progress import Display
from coterie.cli.run_folder import (
    TENSORBOARD,
    RunSettings,
    leave_nothing_useless,
    refuse_fitted,
    refuse_what_is_there,
    remove_run,
    settings_of,
)
from coterie.data.parts import HeldOut, Split
from coterie.errors import ConfigError, CoterieError
from coterie.models.baselines import METHODS
from coterie.models.model import BaselineConfig
from coterie.presets import PRESETS, resolved
from coterie.training.config import Experiment, RunContext
from coterie.training.logging import Observers, TensorBoardObserver
from coterie.training.loop import Observer, TrainingResult, check_data
from coterie.training.loop import train as run_training
from coterie.training.run_folder import LAST

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
    run = _asked(settings, split, out, resume=resume)
    require_format(run.split, SPLIT_FORMAT)
    data = Split.open(run.split, verify=True)
    writer = TensorBoardObserver(out / TENSORBOARD) if tensorboard else None  # writes later
    refuse_what_is_there(out, resume=resume, overwrite=overwrite)
    run.context.torch_device()
    check_data(data.train, _validation(data))
    if overwrite:  # the last thing before training: no mistake costs the old run
        remove_run(out)
    try:
        result = _train(data, run, out, resume=resume, writer=writer)
    except CoterieError:
        leave_nothing_useless(out)
        raise
    if result.interrupted:
        output.note(
            f"stopped; checkpoint in {out / LAST}; continue with --resume: "
            f"coterie train --resume --out {out}"
        )
        return 130
    result.recommender.save(out / MODEL, overwrite=True)
    _show(
        output, out, run.split, _facts(result, run.experiment), *_more(result, run.experiment, out)
    )
    return 0


def _asked(settings: Settings, split: Path | None, out: Path, *, resume: bool) -> RunSettings:
    """What to train on what; of a run that is resumed, what the command does not say."""
    if resume:
        refuse_fitted(out)
    before = settings_of(out, needed=split is None) if resume else {}
    source = split or (Path(before["split"]) if "split" in before else None)
    experiment = settings.read(Experiment, before.get("experiment"))
    context = settings.read(RunContext, before.get("run"))
    if source is None:
        nothing = f"{out} holds no run to continue. " if resume else ""
        raise ConfigError(f"{nothing}Which split to train on? coterie train SPLIT --out RUN")
    return RunSettings(source, experiment, context)


def _fit(
    config: BaselineConfig, source: Path | None, out: Path, output: Output, *, overwrite: bool
) -> int:
    if source is None:
        raise ConfigError("Which split to train on? coterie train SPLIT --out RUN")
    require_format(source, SPLIT_FORMAT)
    data = Split.open(source, verify=True)
    refuse_what_is_there(out, resume=False, overwrite=overwrite)
    recommender, facts = baseline.fitted(config, data, output)
    if overwrite:  # the last thing before saving: no mistake costs the old run
        remove_run(out)
    recommender.save(out / MODEL)
    _show(output, out, source, facts)
    return 0


def _train(
    data: Split, run: RunSettings, out: Path, *, resume: bool, writer: TensorBoardObserver | None
) -> TrainingResult:
    with ExitStack() as stack:
        display = Display(Console(stderr=True, highlight=False))
        observers: list[Observer] = [stack.enter_context(display.running())]
        if writer is not None:
            observers.append(stack.enter_context(writer))
        return run_training(
            data.train,
            _validation(data),
            run.experiment,
            context=run.context,
            folder=out,
            resume=resume,
            observer=Observers(*observers),
            on_start=lambda: run.save(out),
        )


def _show(output: Output, out: Path, split: Path, facts: dict[str, Any], *more: str) -> None:
    output.result(
        {"run": str(out), "model": str(out / MODEL), **facts},
        facts_table(f"model: {out / MODEL}", facts),
        *more,
        f"Next: coterie evaluate {out} {split}",
    )


def _validation(data: Split) -> HeldOut | None:
    return data.validation if data.validation.held_out.nnz else None


def _facts(result: TrainingResult, experiment: Experiment) -> dict[str, Any]:
    """How long it trained, and how good the best epoch is on the validation users."""
    return {
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        f"validation_{experiment.training.metric}": result.best_value,
    }


def _more(result: TrainingResult, experiment: Experiment, out: Path) -> list[str]:
    """How to go on, if validation had not stopped rising when the epochs were over."""
    epochs = len(result.history)
    most = int(min(2 * epochs, experiment.training.rate_lasts))
    if result.best_epoch != epochs or most <= epochs:
        return []
    return [
        "The best epoch is the last: more may help: "
        f"coterie train --resume --out {out} --epochs {most}"
    ]
