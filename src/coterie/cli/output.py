"""What a command says: results on standard output, everything else on standard error."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import polars as pl
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coterie.errors import CoterieError


class Output:
    """Prints one JSON object if asked for, else text and tables for people.

    Parameters
    ----------
    as_json
        Whether standard output is for a machine.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._people = Console(file=sys.stdout, soft_wrap=False, highlight=False)
        self._aside = Console(file=sys.stderr, highlight=False)

    def result(self, facts: Mapping[str, Any], *shown: RenderableType) -> None:
        """Print ``facts`` as one JSON object, or ``shown`` for people."""
        if self.as_json:
            print(json.dumps(_plain(facts), allow_nan=False, ensure_ascii=False, default=str))
            return
        for part in shown:
            self._people.print(part, soft_wrap=isinstance(part, str))

    def note(self, text: str) -> None:
        """Tell something on standard error; ``text`` is taken as it is, without markup."""
        self._aside.print(escape(text), soft_wrap=True)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str], None]]:
        """A function that shows the name of the stage that begins."""
        with self._aside.status("") as status:

            def tell(stage: str) -> None:
                status.update(f"{escape(stage)} …")

            yield tell

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A function ``(done, all)`` that moves a bar with rate and time left, on a terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        shown = self._aside.is_terminal
        with Progress(*columns, console=self._aside, transient=True, disable=not shown) as bar:
            task = bar.add_task(what, total=None, rate="")
            began = time.monotonic()

            def tell(done: int, total: int) -> None:
                per_second = done / max(time.monotonic() - began, 1.0)
                rate = f"{per_second:,.0f}/s" if per_second >= 1 else ""
                bar.update(task, completed=done, total=total, rate=rate)

            yield tell


@contextmanager
def in_flags() -> Iterator[None]:
    """Errors of the library, raised within, name flags in the place of Python's arguments."""
    try:
        yield
    except CoterieError as error:
        text = re.sub(r'Pass source="(\w+)"', r"Say --source \1", str(error))
        error.args = (text.replace('pass on_unknown="report"', "leave out --strict"),)
        raise


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Two columns: names and values."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in _rows(facts):
        table.add_row(escape(name), escape(shown(value)))
    return table


def frame_table(frame: pl.DataFrame, title: str = "") -> Table:
    """A frame as a table; numbers to the right, integers as they are (they may be ids)."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.iter_rows():
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def shown(value: Any) -> str:
    """A value for people: thousands apart by commas, four significant digits, ``–`` for nothing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return str(value)


def duration(seconds: float) -> str:
    """``50 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value) if isinstance(value, int) else shown(value)


def _rows(facts: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; a table of tables becomes dotted names."""
    for name, value in facts.items():
        inner = isinstance(value, Mapping)
        if inner and any(isinstance(part, Mapping) for part in value.values()):
            yield from _rows(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _plain(value: Any) -> Any:
    """The value without what JSON lacks: NaN and Inf become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
