"""``coterie study settings``: the paper's settings on several seeds, and what changes."""

from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter, validators

from coterie.cli.app import new_app
from coterie.cli.contestants import CONTEXT, Seeds, stopped
from coterie.cli.options import (
    Checkpoints,
    ConfigFile,
    Json,
    Section,
    Settings,
    Threads,
    accepts,
)
from coterie.cli.output import Output, duration, frame_table
from coterie.cli.progress import watched
from coterie.cli.split import Division, data_of_seeds
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.measurement import Measurement
from coterie.repeats import Splits
from coterie.study.folder import StudyFolder
from coterie.study.measures import sample
from coterie.study.outcome import Study, tally
from coterie.study.report import PAGE, maps_of, require_extras, write_results
from coterie.study.runs import Step, checked, identity, run_study
from coterie.study.settings import METRIC, Plan, StudyConfig
from coterie.training.config import RunContext

EXAMPLES = """\
Examples:
  coterie study settings --data data --out study
  coterie study settings --data split --out study --seeds 0 1 2 3 4
  coterie study settings --data data --out study --betas 0.2 --rhos 0.5

`coterie study settings --help` tells more.
"""
SETTINGS_EXAMPLES = """\
DATA is a data set (each seed then draws its own split of it by users), or a
split, which is kept. DIR gets a record of each finished run, the models of the
three main settings, and in the end report.html, summary.md and results.json.

Ctrl-C stops; the same command goes on with the first run that is not finished,
and does nothing twice. Further --seeds can be added later. Several processes
may work in one DIR at once, each with seeds of its own: then let the last
command name all seeds, to write the report.

Examples:
  coterie study settings --data data --out study
  coterie study settings --data data --out study --seeds 0 1 2 3 4 --figures figures
  coterie study settings --data split --out study --epochs 50 --lambdas 0 0.5 1 2
  coterie study settings --data data --out study --betas 0.2 --rhos 0.5 --no-ablation
"""
ENOUGH_SEEDS = 3
SHOWN = ("setting", METRIC, "drift", "global share")  # fits 80 columns


SECTION = Section(StudyConfig, "Study", at="study")

ValidationUsers = Annotated[
    int | None,
    Parameter(
        name=("--n-validation-users", "--validation-users"),
        validator=validators.Number(gte=0),
        show_default=False,
        help="Of a data set: users to choose the epoch on; else a tenth, at most 10,000.",
    ),
]
TestUsers = Annotated[
    int | None,
    Parameter(
        name=("--n-test-users", "--test-users"),
        validator=validators.Number(gte=0),
        show_default=False,
        help="Of a data set: users to test on; else a tenth, at most 10,000.",
    ),
]

app = new_app("study", EXAMPLES)
settings_app = new_app("settings", SETTINGS_EXAMPLES)
app.command(settings_app)


@settings_app.default
@accepts(SECTION, CONTEXT)
def run_settings(
    *,
    data: Annotated[Path, Parameter(help="DATA: a data set, or a split.")],
    out: Annotated[Path, Parameter(help="DIR, the folder to write.")],
    settings: Settings,
    seeds: Annotated[
        Seeds,
        Parameter(
            help="Each trains every setting once. Three or more, for the tests to mean something."
        ),
    ] = (0, 1, 2),
    n_validation_users: ValidationUsers = None,
    n_test_users: TestUsers = None,
    checkpoints: Checkpoints = False,
    threads: Threads = None,
    figures: Annotated[
        Path | None, Parameter(show_default=False, help="Folder for the plots as PNG and SVG.")
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Train clean input, masking, masking + PIA, and sweeps around them."""
    output = Output(as_json=json)
    plan, context = Plan(settings.read(StudyConfig)), settings.read(RunContext)
    seeds = tuple(dict.fromkeys(seeds))
    if not seeds:
        raise ConfigError("A study needs at least one seed (--seeds 0 1 2).")
    require_extras()
    context.torch_device()
    if threads is not None:
        torch.set_num_threads(threads)
    sizes = {"n_validation_users": n_validation_users, "n_test_users": n_test_users}
    given = {name for name, value in sizes.items() if value is not None}
    splits, split_per_seed = data_of_seeds(data, Division.read(sizes), given)
    checked(splits(seeds[0]))
    folder = StudyFolder(out)
    folder.claim(identity(plan, splits, context, split_per_seed=split_per_seed))
    _announce(output, plan, seeds, folder)
    finished = run_study(
        plan,
        seeds,
        splits,
        folder,
        context=context,
        checkpoints=checkpoints,
        watch=watched,
        progress=lambda step: output.note(line_of(step, plan)),
    )
    if not finished:
        return stopped(output, out)
    with output.stages() as stage:
        stage("writing the report")
        study = Study.read(plan, folder)
        latent = _maps(output, study, folder, splits)
        written = write_results(study, out, latent=latent, figures=figures)
    _show(output, study, out, written)
    return 0


def _show(output: Output, study: Study, out: Path, written: list[Path]) -> None:
    output.result(
        {"study": str(out), "report": str(out / PAGE), **study.to_dict()},
        frame_table(
            study.by_setting().select(SHOWN),
            f"Mean ± standard deviation over {len(study.seeds)} seeds",
        ),
        tally(study.findings),
        *(f"{found.verdict.upper()}: {found.claim} {found.sentence}" for found in study.findings),
        f"Written: {', '.join(map(str, written[:3]))}",
    )


def line_of(step: Step, plan: Plan) -> str:
    """What is said when a run is finished."""
    record = step.record
    left = f"; about {duration(step.seconds_left)} left" if step.done < step.total else ""
    return (
        f"{step.done} of {step.total} runs: {plan[record.key].label}, seed {record.seed}: "
        f"{METRIC} {record.metric(METRIC):.4f}, best epoch {record.values['best_epoch']}, "
        f"{duration(record.seconds)}{left}"
    )


def _announce(output: Output, plan: Plan, seeds: tuple[int, ...], folder: StudyFolder) -> None:
    runs = plan.runs(seeds)
    done = sum(folder.file(*run).exists() for run in runs)
    before = f", {done} of them finished before" if done else ""
    output.note(f"{len(plan.keys)} settings on {len(seeds)} seeds: {len(runs)} runs{before}")
    if len(seeds) < ENOUGH_SEEDS:
        output.note(f"fewer than {ENOUGH_SEEDS} seeds: hardly any claim can be decided")


def _maps(output: Output, study: Study, folder: StudyFolder, splits: Splits) -> Measurement | None:
    users = sample(splits(study.seeds[0]).train, study.plan.config)
    try:
        return maps_of(study, folder, users)
    except (ConfigError, DataError) as error:
        output.note(f"no latent maps: {error}")
        return None
