"""What `compare` and `reproduce` share: models by a word, flags, and what is said of their runs."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from coterie.cli import baseline as baseline_flags
from coterie.cli.options import Section, Settings, read_config
from coterie.cli.output import Output, duration
from coterie.cli.paths import MODEL, model_folder
from coterie.cli.train import EXPERIMENT
from coterie.comparison.contestants import (
    BaselineContestant,
    Contestant,
    SavedContestant,
    VaeContestant,
)
from coterie.comparison.runs import Step
from coterie.config import HIGHEST_SEED, merged
from coterie.errors import ConfigError
from coterie.models.baselines import METHODS
from coterie.presets import PRESETS, experiment
from coterie.training.config import Experiment, RunContext

CONTEXT = Section(RunContext, "Run", at="run")

Words = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative_iterable=())]
Seeds = Annotated[
    tuple[int, ...],
    Parameter(
        consume_multiple=True,
        negative_iterable=(),
        validator=validators.Number(gte=0, lte=HIGHEST_SEED),
    ),
]
Epochs = Annotated[
    int | None,
    Parameter(
        validator=validators.Number(gte=1),
        show_default=False,
        help="Most epochs of every VAE, for a quick look; else each one's own.",
    ),
]


def run_context(settings: Settings, *, checkpoints: bool) -> RunContext:
    """How runs are done.

    Raises
    ------
    ConfigError
        Something is out of range, or a flag says how often to write what is not written.
    """
    if not checkpoints and "checkpoint_minutes" in settings.flagged(RunContext):
        raise ConfigError(
            "--checkpoint-minutes has no use: these runs keep no checkpoints. Leave it out, or "
            "give --checkpoints, where the command has it."
        )
    return settings.read(RunContext)


def contestant(text: str) -> Contestant:
    """The model that a word of ``--models`` means.

    Raises
    ------
    ConfigError
        It is no name, file or folder (the nearest name is given), or a file's settings are wrong.
    """
    path = Path(text)
    if text in METHODS:
        return BaselineContestant(name=text, method=text)
    if text in PRESETS:
        return VaeContestant(name=text, experiment=experiment(text))
    if path.is_dir():
        folder = model_folder(path)
        named = path.resolve()
        named = named.parent if named.name == MODEL else named
        return SavedContestant(name=named.name, path=folder.resolve())
    if path.is_file():
        return _of_file(path)
    known = (*PRESETS, *METHODS)
    near = get_close_matches(text, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(
        f"There is no model, file or folder {text!r}{hint} Models are {', '.join(known)}, a TOML "
        "file of settings, or the folder of a trained model."
    )


def _of_file(path: Path) -> Contestant:
    """What `coterie train --config` would train."""
    settings = Settings((EXPERIMENT, CONTEXT, *baseline_flags.SECTIONS), {}, read_config(path))
    try:
        simple = baseline_flags.chosen(settings)
        if simple is None:
            return VaeContestant(name=path.stem, experiment=settings.read(Experiment))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return BaselineContestant(name=path.stem, method=simple.name, options=simple.model_dump())


def shortened(
    contestants: Sequence[Contestant], epochs: int | None, output: Output
) -> tuple[Contestant, ...]:
    """The same; if ``epochs`` is given, with at most so many of each VAE, which is told."""
    if epochs is None:
        return tuple(contestants)
    output.note(f"at most {epochs} epochs: a quick look, and no figures to quote")
    return tuple(_shortened(one, epochs) for one in contestants)


def _shortened(one: Contestant, epochs: int) -> Contestant:
    if not isinstance(one, VaeContestant):
        return one
    most = min(epochs, one.experiment.training.epochs)
    values = merged(one.experiment.model_dump(), {"training": {"epochs": most}})
    try:
        return VaeContestant(name=one.name, experiment=Experiment.read(values))
    except ConfigError as error:
        raise ConfigError(f"--epochs {epochs}, {one.name}: {error}") from error


def line_of(step: Step, metric: str) -> str:
    """What is said when a run is finished."""
    run, values = step.record, step.record.values
    left = f"; about {duration(step.seconds_left)} left" if step.done < step.total else ""
    epoch = "" if values["best_epoch"] is None else f", best epoch {values['best_epoch']}"
    return (
        f"{step.done} of {step.total} runs: {run.name}, seed {run.seed}: {metric} "
        f"{run.mean(metric):.4f}{epoch}, {duration(run.seconds)}{left}"
    )


def stopped(output: Output, folder: Path) -> int:
    """Say that the command was interrupted; its exit code."""
    output.note(f"stopped; finished runs are in {folder}; the same command goes on")
    return 130
