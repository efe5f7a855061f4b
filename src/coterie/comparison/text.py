"""A comparison for a terminal, as Markdown, and as LaTeX."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich import box
from rich.markup import escape
from rich.table import Table

from coterie.comparison.grids import (
    COST,
    NOTHING,
    Cell,
    Grid,
    cohort_grid,
    cost_texts,
    difference_texts,
    main_grid,
    metric_cell,
    metric_grid,
    notes,
)
from coterie.comparison.outcome import Comparison

SIDE_BY_SIDE = 3  # columns of figures that fit 80 characters beside the names
NAME_WIDTH = 22
T = TypeVar("T")
MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>|~&$"} | {"\n": " "})
LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "Δ": r"$\Delta$",
        "\n": " ",
    }
)


def terminal(comparison: Comparison) -> Table:
    """One table of at most 80 columns: figures with tests, by history length, and costs."""
    grid = main_grid(comparison)
    table = Table(
        title=escape(grid.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=False,
    )
    table.add_column(max_width=NAME_WIDTH, overflow="fold")
    for _ in range(SIDE_BY_SIDE):
        table.add_column(justify="right")
    for metrics in _chunks(comparison.metrics):
        _add_head(table, "model", metrics)
        for name in comparison.names:
            _add_model(table, comparison, name, metrics)
        table.add_section()
    cohorts = cohort_grid(comparison)
    for columns in _chunks(range(1, len(cohorts.head))):
        heads = [cohorts.head[at].split(" (")[0] for at in columns]
        _add_head(table, f"{comparison.metrics[0]} by items", heads)
        for row in cohorts.rows:
            _add_row(table, [row[0], *(row[at] for at in columns)])
        table.add_section()
    _add_head(table, "cost", ("train s (epoch)", *COST[1:3]))
    for name in comparison.names:
        seconds, *others, epoch = cost_texts(comparison.runs[name])
        training = seconds if epoch == NOTHING else f"{seconds} ({epoch})"
        _add_row(table, [Cell(name), *map(Cell, (training, *others))])
    return table


def markdown(comparison: Comparison) -> str:
    """All tables as Markdown, the best of each column bold, and the notes."""
    lines = ["# Comparison", ""]
    for grid in _grids(comparison):
        body = [[_bold(cell, MARKDOWN, "**{}**") for cell in row] for row in grid.rows]
        rule = ["---", *(["---:"] * (len(grid.head) - 1))]
        head = [text.translate(MARKDOWN) for text in grid.head]
        lines += [grid.title.translate(MARKDOWN), ""]
        lines += ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]
        lines.append("")
    lines += [f"- {note.translate(MARKDOWN)}" for note in notes(comparison)]
    return "\n".join(lines) + "\n"


def latex(comparison: Comparison) -> str:
    r"""All tables as LaTeX ``table`` environments; they need ``\usepackage{booktabs}`` only."""
    lines = [r"% Needs \usepackage{booktabs}."]
    lines += [f"% {note}" for note in notes(comparison)]
    for grid in _grids(comparison):
        body = [[_bold(cell, LATEX, r"\textbf{{{}}}") for cell in row] for row in grid.rows]
        lines += [
            "",
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{grid.title.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}",
            r"\toprule",
            " & ".join(text.translate(LATEX) for text in grid.head) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _grids(comparison: Comparison) -> list[Grid]:
    found = [main_grid(comparison)]
    if comparison.cohorts:
        found.append(cohort_grid(comparison))
    return found + [metric_grid(comparison, metric) for metric in comparison.metrics]


def _bold(cell: Cell, escapes: dict[int, str], best: str) -> str:
    text = cell.text.translate(escapes)
    return best.format(text) if cell.best else text


def _add_model(table: Table, comparison: Comparison, name: str, metrics: Sequence[str]) -> None:
    """Figures, and below them the difference to the baseline and its p-values."""
    _add_row(table, [Cell(name), *(metric_cell(comparison, name, metric) for metric in metrics)])
    found = [comparison.figure(name, metric).difference for metric in metrics]
    if name != comparison.baseline:
        texts = [difference_texts(one) for one in found]
        _add_row(table, [Cell("  difference"), *(Cell(delta) for delta, *_ in texts)])
        both = [Cell(f"{users} | {seeds}") for _, users, seeds in texts]
        _add_row(table, [Cell("  p users | p seeds"), *both])


def _add_head(table: Table, first: str, heads: Iterable[str]) -> None:
    table.add_row(*(f"[bold]{escape(text)}" for text in (first, *heads)))


def _add_row(table: Table, cells: Iterable[Cell]) -> None:
    table.add_row(*(f"{'[bold]' if cell.best else ''}{escape(cell.text)}" for cell in cells))


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), SIDE_BY_SIDE):
        yield values[start : start + SIDE_BY_SIDE]
