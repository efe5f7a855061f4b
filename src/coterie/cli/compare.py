"""``coterie compare``: several models on the same splits and seeds, in one table, with tests."""

import re
from difflib import get_close_matches
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators
from pydantic import Field, PositiveInt, field_validator
from rich.console import Console

from coterie.cli import baseline as baseline_flags
from coterie.cli.app import new_app
from coterie.cli.evaluate import EvaluateOptions, cohort
from coterie.cli.options import (
    Checkpoints,
    ConfigFile,
    Json,
    Section,
    Settings,
    Threads,
    accepts,
    read_config,
)
from coterie.cli.output import Output, duration
from coterie.cli.paths import MODEL, model_folder
from coterie.cli.progress import Display
from coterie.cli.split import DIVISION, Division, data_of_seeds
from coterie.cli.train import EXPERIMENT
from coterie.comparison.contestants import (
    BaselineContestant,
    Contestant,
    SavedContestant,
    VaeContestant,
)
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.outcome import ENOUGH_SEEDS, Comparison, Question, check_baseline
from coterie.comparison.report import PAGE, require_extras, write_results
from coterie.comparison.runs import Field as Entries
from coterie.comparison.runs import Step, run_comparison
from coterie.comparison.text import terminal
from coterie.config import HIGHEST_SEED, Config, merged
from coterie.errors import ConfigError
from coterie.evaluation.metrics import PER_USER
from coterie.evaluation.significance import RESAMPLES
from coterie.models.baselines import METHODS
from coterie.presets import PRESETS, experiment
from coterie.training.config import Experiment, RunContext

EXAMPLES = """\
MODELS are names, files and folders:
  multi-vae recvae+pia …   a VAE preset, as `coterie train --model` knows it
  ease item-knn …          a baseline with its default settings
  FILE.toml                settings, as `coterie train --config` reads them and
                           `coterie tune` writes them; its name is the model's
  FOLDER                   a trained model or run, which is only tested

DATA is a data set (each seed then draws its own split of it), or a split (seeds
then differ in weights, order, masks and noise only). DIR gets a record of each
finished run, and in the end report.html, table.md, table.tex and results.json.

Ctrl-C stops; the same command goes on with the first run that is not finished.
Further --seeds and --models can be added later. Several processes may work in
one DIR at once, each with seeds of its own: then let the last command name all
seeds, to write the tables. They share the processor, so compare times of one
process only.

Examples:
  coterie compare --data data --models multi-vae multi-vae+pia ease --out cmp
  coterie compare --data split --models recvae tuned.toml run --seeds 0 1 2 3 4 \\
    --baseline tuned --metrics ndcg@100 recall_capped@50 --out cmp
  coterie compare --data data --models popularity item-knn ease ials --out cmp \\
    --protocol weak --test bootstrap
"""
WIDTH = 79  # of the legend
USUAL_CUTS = (20, 50, 100)  # measured in any case, so that these metrics can be asked for later
STRONG = ("ndcg@100", "recall_capped@20", "recall_capped@50")
OTHERWISE = ("recall@20", "ndcg@20")


class CompareOptions(Config):
    """What the table shows, and how differences are tested."""

    metrics: tuple[str, ...] = Field(
        (),
        description="Metrics by user, the leading one first; none: "
        f"{' '.join(STRONG)}, and {' '.join(OTHERWISE)} where test users are training users.",
    )
    cohorts: tuple[str, ...] = Field(
        EvaluateOptions().cohorts,
        description="Groups of users by items in the history: FROM-TO, or FROM- without end.",
    )
    test: Literal["t", "bootstrap"] = Field(
        "t", description="Over users: paired t-test or paired bootstrap; over seeds always t."
    )
    n_resamples: PositiveInt = Field(RESAMPLES, description="Of the bootstrap.")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            name, _, cut = metric.partition("@")
            if name not in PER_USER:
                near = get_close_matches(name, PER_USER, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ConfigError(
                    f"There is no metric by user {name!r}{hint} It is one of {', '.join(PER_USER)}."
                )
            if not re.fullmatch("[1-9][0-9]{0,4}", cut):
                raise ConfigError(f"A metric reads name@cut, as ndcg@100; got {metric!r}.")
        return tuple(dict.fromkeys(metrics))


SECTION = Section(CompareOptions, "Table", at="compare")
CONTEXT = Section(RunContext, "Run", at="run")

app = new_app("compare", EXAMPLES)


@app.default
@accepts(SECTION, DIVISION, CONTEXT)
def compare(
    *,
    data: Annotated[Path, Parameter(help="DATA: a data set, or a split.")],
    models: Annotated[
        tuple[str, ...],
        Parameter(consume_multiple=True, negative_iterable=(), help="MODELS, two or more."),
    ],
    out: Annotated[Path, Parameter(help="DIR, the folder to write.")],
    settings: Settings,
    baseline: Annotated[
        str | None,
        Parameter(show_default=False, help="The model to test against; else the first."),
    ] = None,
    seeds: Annotated[
        tuple[int, ...],
        Parameter(
            consume_multiple=True,
            negative_iterable=(),
            validator=validators.Number(gte=0, lte=HIGHEST_SEED),
            help="Each trains every model once. Three or more, to test over seeds.",
        ),
    ] = (0, 1, 2),
    epochs: Annotated[
        int | None,
        Parameter(
            validator=validators.Number(gte=1),
            show_default=False,
            help="Most epochs of every VAE, for a quick look; else each one's own.",
        ),
    ] = None,
    checkpoints: Checkpoints = False,
    threads: Threads = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Train or load several models, test them on the same users, and say which is better."""
    output = Output(as_json=json)
    options, context = settings.read(CompareOptions), settings.read(RunContext)
    cohorts = tuple(map(cohort, options.cohorts))
    contestants = tuple(contestant(model, epochs) for model in models)
    if len(contestants) < 2:
        raise ConfigError("A comparison needs at least two models (--models).")
    require_extras()
    context.torch_device()
    splits, split_per_seed = data_of_seeds(data, settings.read(Division), settings.given(Division))
    seeds = tuple(dict.fromkeys(seeds))
    metrics = options.metrics or usual_metrics(splits(seeds[0] if seeds else 0).protocol)
    cuts = sorted({*USUAL_CUTS, *(int(metric.partition("@")[2]) for metric in metrics)})
    entries = Entries(
        contestants, seeds, splits, None if split_per_seed else data.resolve(), tuple(cuts)
    )
    question = Question(
        baseline=baseline or contestants[0].name,
        metrics=metrics,
        cohorts=cohorts,
        test=options.test,
        n_resamples=options.n_resamples,
    )
    check_baseline(question.baseline, [one.name for one in contestants])
    entries.check()
    folder = ComparisonFolder(out)
    folder.claim(entries.identity(context))
    _announce(output, entries, folder)
    finished = run_comparison(
        entries,
        folder,
        context=context,
        threads=threads,
        checkpoints=checkpoints,
        watch=lambda one, seed: Display(
            Console(stderr=True, highlight=False), line_per_epoch=False
        ).running(),
        progress=lambda step: output.note(line_of(step, metrics[0])),
    )
    if not finished:
        output.note(f"stopped; finished runs are in {out}; the same command goes on")
        return 130
    with output.stages() as stage:
        stage("testing the differences")
        comparison = Comparison.read(contestants, folder, question)
        written = write_results(comparison, out)
    output.result(
        {"comparison": str(out), "report": str(out / PAGE), **comparison.to_dict()},
        terminal(comparison),
        fill(_legend(comparison), WIDTH),
        f"Written: {', '.join(map(str, written))}",
    )
    return 0


def usual_metrics(protocol: str) -> tuple[str, ...]:
    """What the literature reports for a split by this protocol."""
    return STRONG if protocol == "strong-generalization" else OTHERWISE


def contestant(text: str, epochs: int | None = None) -> Contestant:
    """The model that a word of ``--models`` means; ``epochs`` replaces a VAE's own.

    Raises
    ------
    ConfigError
        It is no name, file or folder (the nearest name is given), or a file's settings are wrong.
    """
    path = Path(text)
    if text in METHODS:
        return BaselineContestant(name=text, method=text)
    if text in PRESETS:
        return VaeContestant(name=text, experiment=_shortened(experiment(text), epochs))
    if path.is_dir():
        folder = model_folder(path)
        named = path.resolve()
        named = named.parent if named.name == MODEL else named
        return SavedContestant(name=named.name, path=folder.resolve())
    if path.is_file():
        return _of_file(path, epochs)
    known = (*PRESETS, *METHODS)
    near = get_close_matches(text, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(
        f"There is no model, file or folder {text!r}{hint} Models are {', '.join(known)}, a TOML "
        "file of settings, or the folder of a trained model."
    )


def _of_file(path: Path, epochs: int | None) -> Contestant:
    """What `coterie train --config` would train."""
    settings = Settings((EXPERIMENT, CONTEXT, *baseline_flags.SECTIONS), {}, read_config(path))
    simple = baseline_flags.chosen(settings)
    if simple is None:
        return VaeContestant(
            name=path.stem, experiment=_shortened(settings.read(Experiment), epochs)
        )
    return BaselineContestant(name=path.stem, method=simple.name, options=simple.model_dump())


def line_of(step: Step, metric: str) -> str:
    """What is said when a run is finished."""
    run, values = step.run, step.run.values
    left = f"; about {duration(step.seconds_left)} left" if step.done < step.total else ""
    epoch = "" if values["best_epoch"] is None else f", best epoch {values['best_epoch']}"
    return (
        f"{step.done} of {step.total} runs: {run.name}, seed {run.seed}: {metric} "
        f"{run.mean(metric):.4f}{epoch}, {duration(run.seconds)}{left}"
    )


def _legend(comparison: Comparison) -> str:
    test = "t-test" if comparison.question.test == "t" else "bootstrap"
    n = comparison.n_compared
    return (
        "Mean ± standard deviation over seeds; the best epoch in brackets. Differences are to "
        f"{comparison.baseline}; p users: paired {test} over distinct users; p seeds: paired "
        f"t-test over seeds; both corrected for {n} model{'s' if n > 1 else ''} by Holm's method; "
        "* p users < 0.05."
    )


def _shortened(experiment: Experiment, epochs: int | None) -> Experiment:
    if epochs is None:
        return experiment
    values: dict[str, Any] = {"training": {"epochs": epochs}}
    return Experiment.read(merged(experiment.model_dump(), values))


def _announce(output: Output, entries: Entries, folder: ComparisonFolder) -> None:
    done = sum(folder.finished(seed, one) for seed, one in entries.runs)
    before = f", {done} of them finished before" if done else ""
    models, seeds = len(entries.contestants), len(entries.seeds)
    output.note(f"{models} models on {seeds} seeds: {len(entries.runs)} runs{before}")
    if seeds < ENOUGH_SEEDS:
        output.note(f"fewer than {ENOUGH_SEEDS} seeds: no test over seeds")
