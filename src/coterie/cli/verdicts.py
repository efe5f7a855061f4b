"""An analysis for people: tables, sentences, the page, the plots."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from coterie.errors import ConfigError, StorageError
from coterie.experiment.analysis import Analysis, Result, Role
from coterie.experiment.simulation.truth import Truth
from coterie.experiment.verdict import method, p_text, percent, sentence, span, warnings

ROLES: dict[Role, str] = {
    "primary": "Primary metric",
    "guardrail": "Guardrails",
    "secondary": "Secondary metrics",
}


def check_written(html: Path | None, figures: Path | None, *, overwrite: bool) -> None:
    """Before any work: raise unless page and plots can be written where they shall be."""
    if html is None and figures is None:
        return
    from coterie.experiment.report import require_extras

    require_extras()
    if html is not None and html.suffix not in (".html", ".htm"):
        raise ConfigError(f"--html must end in .html, got {html}.")
    for path in (html, figures):
        if path is not None and path.exists() and not overwrite:
            raise StorageError(f"{path} exists already; choose another path, or --overwrite it.")
    if figures is not None and figures.is_file():
        raise StorageError(f"{figures} is a file; --figures names a folder.")
    if html is not None and html.is_dir():
        raise StorageError(f"{html} is a folder; --html names a file.")


def write(
    analysis: Analysis, html: Path | None, figures: Path | None, truths: Sequence[Truth] = ()
) -> list[Path]:
    """Write page and plots, whichever is asked for; what was written."""
    written = []
    if html is not None:
        from coterie.experiment.report import write_report

        written.append(write_report(analysis, html, truths))
    if figures is not None:
        from coterie.experiment.plots import figures as drawn
        from coterie.mechanisms.style import save_figure

        for name, figure in drawn(analysis).items():
            written += [save_figure(figure, figures / f"{name}.{end}") for end in ("png", "svg")]
    return written


def shown_analysis(analysis: Analysis, truths: Sequence[Truth] = ()) -> list[Any]:
    """What to print; with the true lifts, where they are known, beside the measured ones."""
    experiment = analysis.experiment
    users = ", ".join(
        f"{name} {seen:,}"
        for name, seen in zip(experiment.arm_names, analysis.mismatch.observed, strict=True)
    )
    alarms = [f"[bold red]{escape(text)}[/]" for text in warnings(analysis)]
    head = f"{experiment.name}: day {analysis.days} of {experiment.days}; users: {users}"
    sentences = []
    for role, title in ROLES.items():
        said = [r for r in analysis.results if r.role == role]
        if said:
            sentences.append(f"[bold]{title}[/]")
            sentences += [f"  {escape(sentence(result, analysis))}" for result in said]
    tables = [lift_table(analysis, arm, truths) for arm in experiment.arm_names[1:]]
    notes = [f"[dim]{escape(text)}[/]" for text in method(analysis)]
    return [*alarms, escape(head), *tables, *sentences, "", *notes]


@dataclass(frozen=True)
class Name:
    """A metric's name, which goes on in another line only before a ``.`` or ``_``."""

    name: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Of its longest part, and of all of it."""
        return Measurement(max(map(len, self._parts())), len(self.name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """As many parts in a line as there is room for."""
        lines = [""]
        for part in self._parts():
            if lines[-1] and len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")

    def _parts(self) -> list[str]:
        return re.findall(r"[._]?[^._]+|[._]", self.name)


def lift_table(analysis: Analysis, arm: str, truths: Sequence[Truth]) -> Table:
    """All metrics of an arm; the truth, where it is known, takes the place of p-values."""
    true = {truth.metric: truth for truth in truths if truth.arm == arm}
    level = f"{100 * (1 - analysis.experiment.alpha):g} %"
    title = f"{arm} against {analysis.experiment.arm_names[0]}"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric")
    for name in ("lift, %", f"{level} interval", "truth, %" if true else "p, corr."):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for result in analysis.results:
        one = result.comparison
        if one.arm == arm:
            last = _true(true[one.metric.name], result) if true else p_text(result.p_value)
            figures = (percent(one.effect.lift, unit=""), span(result.interval, unit=""), last)
            table.add_row(Name(one.metric.name), *figures, result.verdict)
    return table


def _true(truth: Truth, result: Result) -> str:
    lift = percent(truth.lift, unit="")
    return f"[red]{lift} (outside)[/]" if truth.covered(result.interval) is False else lift
