"""The end of ``coterie demo``: a small A/B test of two of its models on a real server."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from coterie.cli.output import Output
from coterie.cli.simulate import Outcome, OwnServer, read_tastes, run
from coterie.cli.simulation_folder import EVENTS
from coterie.cli.verdicts import lift_table
from coterie.errors import MissingExtraError
from coterie.experiment.record import record
from coterie.experiment.report import require_extras, write_report
from coterie.experiment.settings import Experiment
from coterie.experiment.simulation.settings import SimulateOptions
from coterie.experiment.verdict import sentence

NEEDED = ("alembic", "fastapi", "httpx2", "prometheus_client", "sqlalchemy", "uvicorn")
USERS, VISITS, DAYS = 800, 2.0, 14
LARGE = 0.5  # an effect that so few people show


def missing_extra() -> str | None:
    """What the test would need and is not installed, and how to install it."""
    lacks = next((name for name in NEEDED if find_spec(name) is None), None)
    return lacks and f"needs {lacks}, which is not installed: pip install 'coterie[serve]'"


def trial(
    control: tuple[str, Path],
    treatment: tuple[str, Path],
    data: Path,
    out: Path,
    output: Output,
    *,
    seed: int,
) -> Outcome:
    """People of the data's tastes try two models, each a name and a folder.

    Parameters
    ----------
    control, treatment
        The arms.
    data
        A split of invented data.
    out
        Folder to write.
    output
        Where progress goes.
    seed
        Of everything that is drawn.
    """
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    experiment = Experiment.read(
        {
            "name": "demo",
            "start": today - timedelta(days=DAYS - 2),
            "end": today + timedelta(days=2),
            "arms": {control[0]: 0.5, treatment[0]: 0.5},
            "minimum_effect": LARGE,
        }
    )
    server = OwnServer(control[1], dict([treatment]))
    options = SimulateOptions(users=USERS, visits=VISITS, seed=seed)
    return run(experiment, server, read_tastes(data), options, out, output, overwrite=True)


def facts(outcome: Outcome) -> dict[str, Any]:
    """For machines: what was found, and the truth."""
    return {**outcome.facts(), "results": record(outcome.analysis)["results"]}


def shown(outcome: Outcome, out: Path) -> Sequence[RenderableType]:
    """For people: the lifts with the truth beside them, and where the report is."""
    analysis, truths = outcome.analysis, outcome.simulated.truths
    arm = analysis.experiment.arm_names[1]
    return [
        lift_table(analysis, arm, truths),
        sentence(analysis.results[0], analysis),
        *outcome.shown(),
        f"{_report(outcome, out)}\n",
    ]


def _report(outcome: Outcome, out: Path) -> str:
    events = f"Events: {out / EVENTS}."
    try:
        require_extras()
    except MissingExtraError as error:
        return f"{events} {error}"
    page = write_report(outcome.analysis, out / "report.html", outcome.simulated.truths)
    return f"{events} Report with plots: {page}"
