"""The analysis as one self-contained HTML page."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from coterie.errors import MissingExtraError
from coterie.experiment.analysis import Analysis, Result
from coterie.experiment.plots import by_day, lifts
from coterie.experiment.simulation.truth import Truth
from coterie.experiment.verdict import method, p_text, percent, sentence, span, warnings
from coterie.mechanisms.page import Image, Panel, Point, Section, Table, write_page

EXTRAS = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}


def require_extras() -> None:
    """Find out before the work what the report would lack after it."""
    missing = [name for module, name in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"Reports and plots need {', '.join(missing)}: pip install 'coterie[experiment]'."
        )


def write_report(analysis: Analysis, path: Path, truths: Sequence[Truth] = ()) -> Path:
    """Write the page, whole or not at all; of a simulation with the truth."""
    experiment = analysis.experiment
    lead = [
        f"{experiment.arm_names[0]} against {', '.join(experiment.arm_names[1:])}: "
        f"{sum(analysis.mismatch.observed):,} users, {analysis.days} of {experiment.days} days, "
        f"from {experiment.start:%Y-%m-%d} on."
    ]
    return write_page(path, f"Experiment {experiment.name}", sections(analysis, truths), lead=lead)


def sections(analysis: Analysis, truths: Sequence[Truth] = ()) -> list[Section]:
    """Verdicts, figures, truth if it is known, days, users, method."""
    alarms = tuple(warnings(analysis))
    verdicts = tuple(
        Panel(
            result.comparison.metric.name,
            points=(Point(sentence(result, analysis), result.role.capitalize()),),
        )
        for result in analysis.results
    )
    if alarms:
        title = "Do not trust these figures" if analysis.mismatch.alarm else "Warnings"
        verdicts = (Panel(title, warnings=alarms), *verdicts)
    picture = Image.of(
        lifts(analysis), "Lift of every metric with its intervals; the table below has the numbers."
    )
    days = tuple(
        Panel(name, Image.of(by_day(analysis, name), f"Lift of {name} at the end of each day."))
        for name in dict.fromkeys(
            r.comparison.metric.name for r in analysis.results if r.role != "secondary"
        )
    )
    return [
        Section("Verdicts", "verdicts", figures=verdicts),
        Section(
            "Lifts",
            "lifts",
            figures=(Panel("Thick: for one look at the end. Thin: valid at any time", picture),),
            more=(_figures(analysis),),
        ),
        *([Section("Truth", "truth", tables=(_truth(analysis, truths),))] if truths else []),
        Section("Day by day", "days", figures=days),
        Section("Users", "users", tables=(_users(analysis),)),
        Section("How it was done", "method", method(analysis)),
    ]


def _figures(analysis: Analysis) -> Table:
    level = f"{100 * (1 - analysis.experiment.alpha):g} %"
    return Table(
        f"Lifts with the {level} intervals that decide",
        (
            "metric",
            "arm",
            "verdict",
            "lift, %",
            "interval, %",
            "corrected p",
            "control",
            "treatment",
            "variance removed",
        ),
        tuple(_cells(result) for result in analysis.results),
    )


def _cells(result: Result) -> tuple[str, ...]:
    one = result.comparison
    removed = one.variance_reduction
    return (
        one.metric.name,
        one.arm,
        result.verdict,
        percent(one.effect.lift, unit=""),
        span(result.interval, unit=""),
        p_text(result.p_value),
        f"{one.effect.control.value:.4g}",
        f"{one.effect.treatment.value:.4g}",
        "–" if removed is None else percent(removed, sign=False),
    )


def _truth(analysis: Analysis, truths: Sequence[Truth]) -> Table:
    known = {(truth.metric, truth.arm): truth for truth in truths}
    rows = []
    for result in analysis.results:
        one = result.comparison
        truth = known[one.metric.name, one.arm]
        covered = {True: "yes", False: "no", None: "–"}[truth.covered(result.interval)]
        figures = (f"{truth.control:.4g}", f"{truth.treatment:.4g}", percent(truth.lift, unit=""))
        rows.append((one.metric.name, one.arm, *figures, span(result.interval, unit=""), covered))
    columns = ("metric", "arm", "control", "treatment", "true lift, %", "interval, %", "covered")
    return Table("What the metrics are by the click model, if all were in one arm", columns,
                 tuple(rows))  # fmt: skip


def _users(analysis: Analysis) -> Table:
    mismatch = analysis.mismatch
    rows = zip(
        analysis.experiment.arm_names,
        (f"{seen:,}" for seen in mismatch.observed),
        (f"{wanted:,.0f}" for wanted in mismatch.expected),
        strict=True,
    )
    return Table(
        f"Users by arm; sample ratio mismatch: p {p_text(mismatch.p_value)}",
        ("arm", "users", "expected"),
        tuple(rows),
    )
