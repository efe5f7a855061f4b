"""``coterie compare``: several models on the same splits and seeds, in one table, with tests."""

import re
from difflib import get_close_matches
from pathlib import Path
from textwrap import fill
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field, PositiveInt, field_validator

from coterie.cli.app import new_app
from coterie.cli.contestants import (
    CONTEXT,
    Epochs,
    Seeds,
    Words,
    contestant,
    line_of,
    run_context,
    shortened,
    stopped,
)
from coterie.cli.evaluate import EvaluateOptions, cohort
from coterie.cli.options import Checkpoints, ConfigFile, Json, Section, Settings, Threads, accepts
from coterie.cli.output import Output
from coterie.cli.progress import watched
from coterie.cli.split import DIVISION, Division, data_of_seeds
from coterie.comparison.contestants import Contestant
from coterie.comparison.folder import ComparisonFolder
from coterie.comparison.outcome import ENOUGH_SEEDS, Comparison, Question, check_baseline
from coterie.comparison.report import PAGE, require_extras, write_results
from coterie.comparison.runs import Field as Entries
from coterie.comparison.runs import RunOptions, run_comparison
from coterie.comparison.text import terminal
from coterie.config import Config
from coterie.errors import ConfigError
from coterie.evaluation.metrics import PER_USER
from coterie.evaluation.significance import RESAMPLES

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

app = new_app("compare", EXAMPLES)


@app.default
@accepts(SECTION, DIVISION, CONTEXT)
def compare(
    *,
    data: Annotated[Path, Parameter(help="DATA: a data set, or a split.")],
    models: Annotated[Words, Parameter(help="MODELS, two or more.")],
    out: Annotated[Path, Parameter(help="DIR, the folder to write.")],
    settings: Settings,
    baseline: Annotated[
        str | None,
        Parameter(show_default=False, help="The model to test against; else the first."),
    ] = None,
    seeds: Annotated[
        Seeds, Parameter(help="Each trains every model once. Three or more, to test over seeds.")
    ] = (0, 1, 2),
    epochs: Epochs = None,
    checkpoints: Checkpoints = False,
    threads: Threads = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Train or load several models, test them on the same users, and say which is better."""
    output = Output(as_json=json)
    context = run_context(settings, checkpoints=checkpoints)
    require_extras()
    context.torch_device()
    contestants = shortened([contestant(model) for model in models], epochs, output)
    splits, split_per_seed = data_of_seeds(data, settings.read(Division), settings.given(Division))
    options = settings.read(CompareOptions)
    question = question_of(options, contestants, baseline, splits(0).protocol)
    cuts = {*USUAL_CUTS, *(int(metric.partition("@")[2]) for metric in question.metrics)}
    entries = Entries(
        contestants,
        tuple(dict.fromkeys(seeds)),
        splits,
        None if split_per_seed else data.resolve(),
        tuple(sorted(cuts)),
    )
    entries.check()
    folder = ComparisonFolder(out)
    folder.claim(entries.identity(context))
    _announce(output, entries, folder)
    runs = RunOptions(context, threads, checkpoints, watched)
    lead = question.metrics[0]
    if not run_comparison(
        entries, folder, runs, progress=lambda step: output.note(line_of(step, lead))
    ):
        return stopped(output, out)
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


def question_of(
    options: CompareOptions,
    contestants: tuple[Contestant, ...],
    baseline: str | None,
    protocol: str,
) -> Question:
    """What is asked of the contestants on a split by this protocol.

    Raises
    ------
    ConfigError
        There are fewer than two, or the baseline is none of them.
    """
    if len(contestants) < 2:
        raise ConfigError("A comparison needs at least two models (--models).")
    question = Question(
        baseline=baseline or contestants[0].name,
        metrics=options.metrics or usual_metrics(protocol),
        cohorts=tuple(map(cohort, options.cohorts)),
        test=options.test,
        n_resamples=options.n_resamples,
    )
    check_baseline(question.baseline, [one.name for one in contestants])
    return question


def usual_metrics(protocol: str) -> tuple[str, ...]:
    """What the literature reports for a split by this protocol."""
    return STRONG if protocol == "strong-generalization" else OTHERWISE


def _legend(comparison: Comparison) -> str:
    test = "t-test" if comparison.question.test == "t" else "bootstrap"
    n = comparison.n_compared
    return (
        "Mean ± standard deviation over seeds; the best epoch in brackets. Differences are to "
        f"{comparison.baseline}; p users: paired {test} over distinct users; p seeds: paired "
        f"t-test over seeds; both corrected for {n} model{'s' if n > 1 else ''} by Holm's method; "
        "* p users < 0.05."
    )


def _announce(output: Output, entries: Entries, folder: ComparisonFolder) -> None:
    done = sum(folder.finished(seed, one) for seed, one in entries.runs)
    before = f", {done} of them finished before" if done else ""
    models, seeds = len(entries.contestants), len(entries.seeds)
    output.note(f"{models} models on {seeds} seeds: {len(entries.runs)} runs{before}")
    if seeds < ENOUGH_SEEDS:
        output.note(f"fewer than {ENOUGH_SEEDS} seeds: no test over seeds")
