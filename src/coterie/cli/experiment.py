"""``coterie experiment``: plan an online A/B test, see how it stands, analyse or simulate it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

from coterie.cli.app import new_app
from coterie.cli.options import Json, Overwrite
from coterie.cli.output import Output, facts_table
from coterie.cli.verdicts import check_written, shown_analysis, write
from coterie.errors import ConfigError
from coterie.experiment.analysis import analyze
from coterie.experiment.assignment import Roster
from coterie.experiment.events import read_events
from coterie.experiment.log import NobodyEntered, UnknownArms, everyone, summarize
from coterie.experiment.mismatch import sample_ratio
from coterie.experiment.power import Plan, plan, plan_from_log
from coterie.experiment.record import record
from coterie.experiment.settings import DAY, Experiment, read_experiment
from coterie.experiment.verdict import doubts, percent

if TYPE_CHECKING:
    import polars as pl

EXAMPLES = """\
FILE is an experiment in TOML; docs/experiments.md lists its settings. LOG is
one or several files of events, Parquet or JSON lines.

Examples:
  coterie experiment plan pia.toml --events last-month.parquet
  coterie experiment status pia.toml other.toml
  coterie experiment analyze pia.toml --events events.parquet --html report.html
  coterie experiment simulate pia.toml --model control --arm pia=treated --data split

`coterie experiment analyze --help` tells more, and so on.
"""
PLAN_EXAMPLES = """\
From a log of the site as it is now, or from the primary metric's mean, the
variance of one user's value, and new users per day.

Examples:
  coterie experiment plan pia.toml --events last-month.parquet
  coterie experiment plan pia.toml --baseline-mean 0.31 --baseline-variance 0.9
  coterie experiment plan pia.toml --baseline-mean 0.31 --baseline-variance 0.9 \\
    --users-per-day 5000
"""
STATUS_EXAMPLES = """\
Several FILEs are checked against each other: names, salts, exclusive groups.

Examples:
  coterie experiment status pia.toml other.toml
  coterie experiment status pia.toml --events events.parquet
"""
ANALYZE_EXAMPLES = """\
Needs the extra for --html and --figures: pip install 'coterie[experiment]'.

Examples:
  coterie experiment analyze pia.toml --events events.parquet
  coterie experiment analyze pia.toml --events monday.jsonl tuesday.jsonl --json
  coterie experiment analyze pia.toml --events events.parquet --html report.html
  coterie experiment analyze pia.toml --events events.parquet \\
    --through 2026-03-15T00:00:00Z
"""

File = Annotated[Path, Parameter(help="The experiment.")]
Log = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--events",
        consume_multiple=True,
        negative_iterable=(),
        help="LOG, the events; one or several files.",
    ),
]

app = new_app("experiment", EXAMPLES)
plan_app = new_app("plan", PLAN_EXAMPLES)
status_app = new_app("status", STATUS_EXAMPLES)
analyze_app = new_app("analyze", ANALYZE_EXAMPLES)
for _app in (plan_app, status_app, analyze_app):
    app.command(_app)
app.command(
    "coterie.cli.simulate:app",
    name="simulate",
    help="Let invented people, whose tastes are known, try a running server's arms.",
)


@plan_app.default
def run_plan(
    file: File,
    /,
    *,
    events: Log = (),
    baseline_mean: Annotated[
        float | None, Parameter(help="The primary metric now.", show_default=False)
    ] = None,
    baseline_variance: Annotated[
        float | None,
        Parameter(help="Variance of one user's value of it.", show_default=False),
    ] = None,
    users_per_day: Annotated[
        float | None, Parameter(help="New users per day, of the whole site.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """How many users, and days, the smallest effect worth finding needs."""
    output = Output(as_json=json)
    experiment = read_experiment(file)
    typed = (baseline_mean, baseline_variance, users_per_day)
    if events and any(value is not None for value in typed):
        raise ConfigError("A plan is from --events or from --baseline-…, not from both.")
    if events:
        with output.stages() as stage:
            stage("reading the events")
            made = plan_from_log(experiment, everyone(read_events(events), experiment))
    elif baseline_mean is not None and baseline_variance is not None:
        made = plan(
            experiment,
            baseline=baseline_mean,
            variance=baseline_variance,
            users_per_day=users_per_day,
        )
    else:
        raise ConfigError(
            "A plan needs --events, or --baseline-mean and --baseline-variance (of one user)."
        )
    output.result(
        {"experiment": experiment.name, **made.to_dict()},
        facts_table(f"Plan of {experiment.name}", _plan_facts(made, experiment)),
        *_plan_sentences(made, experiment),
    )


def _plan_facts(made: Plan, experiment: Experiment) -> dict[str, Any]:
    return {
        "primary metric": f"{made.metric}, now {made.baseline:.4g}",
        "effect to find": f"{percent(made.effect, sign=False)} of it",
        "power, false alarms": f"{100 * made.power:g} %, {100 * made.alpha:.3g} %",
        **{f"users in {name}": users for name, users in made.users.items()},
        "users in all": made.total,
        "share of traffic": percent(experiment.traffic, sign=False),
        "days until then": made.days,
        "days planned": experiment.days,
        "found by then": None
        if made.effect_at_end is None
        else percent(made.effect_at_end, sign=False),
    }


def _plan_sentences(made: Plan, experiment: Experiment) -> list[str]:
    said = []
    if made.days is None and made.users_at_end is not None:
        said.append("So many users will not come within ten years: aim at a larger effect.")
    elif made.days is not None and made.days > experiment.days:
        said.append(
            f"The planned {experiment.days} days are too short: {made.days} are needed, or an "
            f"effect of {percent(made.effect_at_end or 0.0, sign=False)}."
        )
    elif made.days is not None:
        said.append(f"The planned {experiment.days} days are enough.")
    if experiment.decision == "anytime":
        said.append(
            "This experiment decides at any time. To have the same power at the latest takes "
            f"{made.price:.2f} times the users above; larger effects end it earlier."
        )
    if made.beyond_log:
        said.append(
            "The days go beyond the log; new users were carried on at the rate of its last week."
        )
    return said


@status_app.default
def run_status(
    file: Annotated[Path, Parameter(help="The experiment.")],
    /,
    *others: Annotated[Path, Parameter(help="Further experiments.")],
    events: Log = (),
    json: Json = False,
) -> None:
    """Which experiments run, whether they may run together, and whether users arrive as planned."""
    output = Output(as_json=json)
    experiments = [read_experiment(path) for path in (file, *others)]
    Roster(experiments)
    now = datetime.now(UTC)
    facts = [_standing(experiment, now) for experiment in experiments]
    alarms = []
    if events:
        frame = read_events(events)
        for experiment, fact in zip(experiments, facts, strict=True):
            if fact["state"] == "planned":
                continue
            with output.stages() as stage:
                stage(f"reading the events of {experiment.name}")
                fact["log"], doubtful = _arrived(frame, experiment)
            alarms += [f"{experiment.name}: {doubt}" for doubt in doubtful]
    output.result(
        {"experiments": facts, "warnings": alarms},
        *(f"[bold red]{escape(alarm)}[/]" for alarm in alarms),
        *(facts_table(fact["experiment"], fact) for fact in facts),
    )


def _standing(experiment: Experiment, now: datetime) -> dict[str, Any]:
    state = "planned" if now < experiment.start else "running"
    day = min(max((now - experiment.start) // DAY + 1, 0), experiment.days)
    group = experiment.group
    return {
        "experiment": experiment.name,
        "state": state if now < experiment.end else "ended",
        "day": day,
        "days": experiment.days,
        "start": experiment.start.isoformat(),
        "end": experiment.end.isoformat(),
        "arms": dict(experiment.arms),
        "group": None
        if group is None
        else f"{group.name}, {group.slice[0]:g} to {group.slice[1]:g}",
        "exposed": experiment.exposed,
        "traffic": experiment.traffic,
        "primary": experiment.primary,
        "decision": experiment.decision,
    }


def _arrived(
    events: "pl.LazyFrame", experiment: Experiment
) -> tuple[dict[str, Any] | None, list[str]]:
    """Who came, and doubts about that; None if the log cannot be that of this experiment.

    The others' status does not depend on it.
    """
    try:
        log = summarize(events, experiment)
    except NobodyEntered:
        return {"users": dict.fromkeys(experiment.arm_names, 0), "days_with_events": 0}, []
    except UnknownArms as error:
        return None, [str(error)]
    found = sample_ratio(log.users_by_arm(), experiment.shares)
    facts = {
        "users": dict(zip(experiment.arm_names, found.observed, strict=True)),
        "days_with_events": log.days,
        "users_in_two_arms": log.facts.crossed_users,
        "users_in_unknown_arms": sum(log.facts.unknown_arms.values()),
        "duplicates": log.facts.duplicates,
        "sample_ratio_mismatch": found.to_dict(),
    }
    return facts, list(doubts(found, log.facts, experiment))


@analyze_app.default
def run_analyze(
    file: File,
    /,
    *,
    events: Log,
    through: Annotated[
        datetime | None,
        Parameter(help="Leave out what happened from then on.", show_default=False),
    ] = None,
    html: Annotated[Path | None, Parameter(help="Page to write.", show_default=False)] = None,
    figures: Annotated[
        Path | None, Parameter(help="Folder for the plots as PNG and SVG.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare the arms: lifts, intervals, guardrails, and a verdict per metric."""
    output = Output(as_json=json)
    check_written(html, figures, overwrite=overwrite)
    experiment = read_experiment(file)
    if through is not None and through.tzinfo is None:
        raise ConfigError(
            f"--through needs a time zone, as in 2026-03-15T00:00:00Z; got {through.isoformat()}."
        )
    with output.stages() as stage:
        stage("reading the events")
        log = summarize(read_events(events), experiment, through=through)
        stage("comparing the arms")
        analysis = analyze(log, experiment)
        stage("writing")
        written = write(analysis, html, figures)
    output.result(
        {**record(analysis), "written": list(map(str, written))},
        *shown_analysis(analysis),
        *([f"Written: {', '.join(escape(str(path)) for path in written)}"] if written else []),
    )
