"""``coterie experiment simulate``: an A/B test on invented people, with the truth beside it."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Overwrite, Section, Settings, accepts
from coterie.cli.output import Output
from coterie.cli.paths import (
    DATA_FORMAT,
    SPLIT_FORMAT,
    format_of,
    model_folder,
    require_format,
)
from coterie.cli.serve import Arms, arm_folders
from coterie.cli.simulation_folder import (
    EVENTS,
    EXPERIMENT,
    MARK,
    check_free,
    files_in,
    simulation_folder,
)
from coterie.cli.verdicts import check_written, shown_analysis, write
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import ConfigError, DataError, MissingExtraError
from coterie.experiment.analysis import Analysis, analyze
from coterie.experiment.effect import Interval
from coterie.experiment.log import summarize
from coterie.experiment.record import record
from coterie.experiment.settings import Experiment, read_experiment
from coterie.experiment.simulation.server import own_server
from coterie.experiment.simulation.settings import SimulateOptions
from coterie.experiment.simulation.tastes import (
    Tastes,
    held_out_tastes,
    is_invented,
    planted_tastes,
)
from coterie.experiment.simulation.truth import Truth
from coterie.experiment.toml import to_toml
from coterie.experiment.verdict import percent, warnings
from coterie.files import atomic_file

if TYPE_CHECKING:  # what it needs may not be installed
    from coterie.experiment.simulation.run import Simulated

EXAMPLES = """\
FILE is an experiment in TOML. Either MODEL and arms, as `coterie serve` takes
them: a server is started for it, with a store in the folder --out. Or --url of
a running server that has the experiment; never one that serves people, for
what the invented people do enters its store. DATA is a split, whose test users
like their held-out items; or invented data (coterie demo makes it), whose
truth is known. If a server wants a key, the first one in COTERIE_API_KEYS is
sent. Needs the extra: pip install 'coterie[serve]'.

Examples:
  coterie experiment simulate pia.toml --model control --arm pia=treated \\
    --data split --out simulation
  coterie experiment simulate pia.toml --model control --arm pia=treated \\
    --data demo/split --users 20000 --html report.html
  coterie experiment simulate pia.toml --url http://localhost:8080 --data split
"""
SECTION = Section(SimulateOptions, "Simulation", at="simulate", flags={"k": ("--k", "-k")})
KEYS = "COTERIE_API_KEYS"
MARGIN = timedelta(days=1)  # of an experiment that is moved to today, at most, lies ahead

app = new_app("simulate", EXAMPLES)


@app.default
@accepts(SECTION)
def simulate(
    file: Annotated[Path, Parameter(help="The experiment.")],
    /,
    *,
    data: Annotated[Path, Parameter(help="DATA, where the people's tastes come from.")],
    settings: Settings,
    model: Annotated[
        Path | None, Parameter(help="MODEL of the control.", show_default=False)
    ] = None,
    arm: Arms = (),
    url: Annotated[
        str | None, Parameter(help="Address of a running server.", show_default=False)
    ] = None,
    out: Annotated[Path, Parameter(help="Folder for events, store and log.")] = Path("simulation"),
    html: Annotated[Path | None, Parameter(help="Page to write.", show_default=False)] = None,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Let invented people, whose tastes are known, try a running server's arms."""
    output = Output(as_json=json)
    if (model is None) == (url is None) or (arm and url is not None):
        raise ConfigError("Give either --model and --arm, or --url of a server that has them.")
    check_written(html, None, overwrite=overwrite)
    experiment = read_experiment(file)
    options = settings.read(SimulateOptions)
    server = url if model is None else OwnServer(model_folder(model), arm_folders(arm))
    assert server is not None
    tastes = read_tastes(data)
    outcome = run(experiment, server, tastes, options, out, output, overwrite=overwrite)
    analysis, truths = outcome.analysis, outcome.simulated.truths
    written = [*files_in(out), *write(analysis, html, None, truths)]
    output.result(
        {**record(analysis), **outcome.facts(), "written": list(map(str, written))},
        *shown_analysis(analysis, truths),
        *outcome.shown(),
        f"Written: {escape(', '.join(map(str, written)))}",
    )


@dataclass(frozen=True)
class OwnServer:
    """Models for a server of our own: of the control, and by arm."""

    model: Path
    arms: Mapping[str, Path]

    def check(self, experiment: Experiment) -> None:
        """Raise :class:`ConfigError` unless each arm has a model, and each model an arm."""
        control, *treatments = experiment.arm_names
        for name in treatments:
            if name not in self.arms:
                raise ConfigError(
                    f"The arm {name!r} of {experiment.name!r} has no model; give --arm "
                    f"{name}=MODEL."
                )
        if idle := set(self.arms) - {control, *treatments}:
            raise ConfigError(f"{experiment.name!r} has no arm {min(idle)!r}.")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was simulated, and its analysis."""

    simulated: "Simulated"
    analysis: Analysis
    tastes: Tastes

    def facts(self) -> dict[str, Any]:
        """For machines."""
        one = self.simulated
        return {
            "simulated": {
                "people": one.people,
                "visits": one.visits,
                "visits_before": one.before,
                "events": len(one.events),
                "duplicates": one.duplicates,
                "retries": one.retries,
                "tastes": self.tastes.about,
            },
            "truth": [
                {
                    **asdict(truth),
                    "lift": truth.lift,
                    "covered": truth.covered(self._interval(truth)),
                }
                for truth in one.truths
            ],
            "warnings": [*warnings(self.analysis), *one.warnings],
        }

    def shown(self) -> Iterator[str]:
        """For people: what is true, and whether the intervals say so."""
        one, primary = self.simulated, self.analysis.experiment.primary
        for truth in one.truths:
            if truth.metric == primary:
                covered = truth.covered(self._interval(truth))
                says = {True: "holds it", False: "misses it", None: "has no bounds yet"}[covered]
                yield (
                    f"The truth: {truth.metric} of {truth.arm} differs by {percent(truth.lift)} "
                    "(expected by the click model, with everybody in one arm and then in the "
                    f"other); the interval {says}."
                )
        yield (
            f"[dim]{one.people:,} people, {one.visits:,} visits ({one.before:,} more before the "
            f"start, for CUPED), {len(one.events):,} events "
            f"acknowledged; {one.retries:,} requests sent again. Tastes: {self.tastes.about}.[/]"
        )
        yield from (f"[bold red]{escape(text)}[/]" for text in one.warnings)

    def _interval(self, truth: Truth) -> Interval:
        return next(
            result.interval
            for result in self.analysis.results
            if (result.comparison.metric.name, result.comparison.arm) == (truth.metric, truth.arm)
        )


def run(
    experiment: Experiment,
    server: OwnServer | str,
    tastes: Tastes,
    options: SimulateOptions,
    out: Path,
    output: Output,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Simulate on a server of our own, or at a URL, and analyse what was acknowledged.

    Writes ``experiment.toml`` and ``events.parquet`` into the folder ``out``, and the store and
    log of an own server; all of them when all is done, or none.
    """
    try:
        from coterie.experiment.simulation.client import Client, address
        from coterie.experiment.simulation.run import invite
        from coterie.experiment.simulation.run import simulate as simulated
    except ImportError as error:
        raise MissingExtraError(
            f"A simulation needs {error.name}, which is not installed: pip install 'coterie[serve]'"
        ) from error
    if isinstance(server, OwnServer):
        server.check(experiment)
    else:
        address(server)
    people = invite(experiment, len(tastes), options)
    check_free(out, overwrite=overwrite)
    if isinstance(server, OwnServer):
        experiment = _running_now(experiment, output)
    key = os.environ.get(KEYS, "").split(",")[0].strip() or None

    async def drive(url: str) -> "Simulated":
        async with Client(url, key=key, connections=options.concurrency) as client:
            return await simulated(client, experiment, tastes, people, options, output.counting)

    with simulation_folder(out, overwrite=overwrite) as folder:
        with atomic_file(folder / EXPERIMENT) as path:
            path.write_text(MARK + to_toml(experiment), encoding="utf-8")
        with ExitStack() as stack:
            if isinstance(server, OwnServer):
                output.note("starting a server")
                server = stack.enter_context(
                    own_server(server.model, server.arms, folder / EXPERIMENT, folder)
                )
            found = asyncio.run(drive(server))
        with atomic_file(folder / EVENTS) as path:
            found.events.write_parquet(path)
    log = summarize(found.events.lazy(), experiment)
    return Outcome(found, analyze(log, experiment, now=experiment.end), tastes)  # all have come


def read_tastes(path: Path) -> Tastes:
    """What the users of invented data like, or the test users of a split.

    Raises
    ------
    DataError
        It is real data of which nothing is held out.
    """
    split = format_of(path) == SPLIT_FORMAT
    if not split:
        require_format(path, DATA_FORMAT)
    part = Split.open(path).test if split else None
    known = part.fold_in if part is not None else Interactions.open(path)
    if is_invented(known):
        return planted_tastes(known)
    if part is None:
        raise DataError(
            f"{path} is real data, of which nothing is held out that people could like. Give a "
            "split (coterie split writes one), or invented data."
        )
    return held_out_tastes(part)


def _running_now(experiment: Experiment, output: Output) -> Experiment:
    """The experiment, moved to today if it does not run now: nobody would be in an arm."""
    now = datetime.now(UTC)
    if experiment.start <= now < experiment.end:
        return experiment
    length = experiment.end - experiment.start
    end = now.replace(minute=0, second=0, microsecond=0) + min(length / 2, MARGIN)
    if end <= now:
        end = now + length / 2
    output.note(f"{experiment.name} is moved to {end - length} to {end}, so that it runs now")
    return experiment.model_copy(update={"start": end - length, "end": end})
