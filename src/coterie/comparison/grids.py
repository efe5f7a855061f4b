"""A comparison as tables of text: what every output shows, before it is set as one or another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coterie.comparison.folder import Run
from coterie.comparison.outcome import Comparison, Difference, Figure

ALPHA = 0.05
NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A cell's text; ``best`` if it is the highest of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: the heads of its columns, and rows whose first cell is the model's name."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def main_grid(comparison: Comparison) -> Grid:
    """All metrics, the leading one's difference and p-values, and what each model costs."""
    lead = comparison.metrics[0]
    head = ("model", *comparison.metrics, f"Δ {lead}", "p users", "p seeds", *COST)
    rows = [
        (
            Cell(name),
            *(metric_cell(comparison, name, metric) for metric in comparison.metrics),
            *map(Cell, difference_texts(comparison.figure(name, lead).difference)),
            *map(Cell, cost_texts(comparison.runs[name])),
        )
        for name in comparison.names
    ]
    return Grid(_title(comparison), head, tuple(rows))


def metric_grid(comparison: Comparison, metric: str) -> Grid:
    """One metric with its tests, the interval of the difference included."""
    head = ("model", metric, "Δ", "95 % interval", "p users", "p seeds")
    rows = []
    for name in comparison.names:
        found = comparison.figure(name, metric).difference
        delta, *p = difference_texts(found)
        test = None if found is None else found.users
        interval = NOTHING if test is None else f"{signed(test.low)} to {signed(test.high)}"
        if test is None or math.isnan(test.low):
            interval = NOTHING
        cell = metric_cell(comparison, name, metric)
        rows.append((Cell(name), cell, *map(Cell, (delta, interval, *p))))
    return Grid(metric, head, tuple(rows))


def cohort_grid(comparison: Comparison) -> Grid:
    """The leading metric by history length; a star where p over users is below :data:`ALPHA`."""
    lead = comparison.metrics[0]
    names = [cohort.name for cohort in comparison.cohorts]
    sizes = [comparison.figure(comparison.baseline, lead, one).n_users for one in names]
    head = (
        "model",
        *(f"{one} ({size:,} users)" for one, size in zip(names, sizes, strict=True)),
    )
    rows = [
        (
            Cell(name),
            *(
                Cell(
                    starred(comparison.figure(name, lead, one)),
                    comparison.is_best(name, lead, one),
                )
                for one in names
            ),
        )
        for name in comparison.names
    ]
    return Grid(f"{lead} by items in the history", head, tuple(rows))


def metric_cell(comparison: Comparison, name: str, metric: str) -> Cell:
    """Mean ± standard deviation over seeds."""
    return Cell(spread(comparison.figure(name, metric)), comparison.is_best(name, metric))


def spread(figure: Figure) -> str:
    """``0.4130 ±0.0072``; without ± from one seed."""
    if math.isnan(figure.mean):
        return NOTHING
    tail = "" if math.isnan(figure.deviation) else f" ±{figure.deviation:.4f}"
    return f"{figure.mean:.4f}{tail}"


def starred(figure: Figure) -> str:
    """``0.3230 +0.0060*``: the mean, the difference, a star if it is significant over users."""
    if math.isnan(figure.mean) or figure.difference is None:
        return spread(figure).split(" ")[0]
    star = "*" if figure.difference.p_users < ALPHA else ""
    return f"{figure.mean:.4f} {signed(figure.difference.mean)}{star}"


def difference_texts(found: Difference | None) -> tuple[str, str, str]:
    """The difference and both corrected p-values."""
    if found is None:
        return ("baseline", NOTHING, NOTHING)
    return (signed(found.mean), p_text(found.p_users), p_text(found.p_seeds))


def signed(value: float) -> str:
    """Four decimals, with a sign (a true minus)."""
    return NOTHING if math.isnan(value) else f"{value:+.4f}".replace("-", "−")


def p_text(p: float) -> str:
    """Two significant digits and at most four decimals, or that it is below 0.0001."""
    if math.isnan(p):
        return NOTHING
    if p < 1e-4:
        return "<0.0001"
    return f"{p:.{min(4, max(2, 1 - math.floor(math.log10(p))))}f}"


COST = ("train s", "peak MiB", "parameters", "best epoch")
"""Heads of :func:`cost_texts`."""


def cost_texts(runs: Sequence[Run]) -> tuple[str, str, str, str]:
    """Mean training time, highest peak memory, most numbers learned, range of the best epoch."""
    memory = [run.values["peak_memory"] for run in runs if run.values["peak_memory"] is not None]
    epochs = [run.values["best_epoch"] for run in runs if run.values["best_epoch"] is not None]
    seconds = float(np.mean([run.train_seconds for run in runs]))
    return (
        f"{seconds:.1f}" if seconds < 1000 else f"{seconds:,.0f}",
        f"{max(memory) / 2**20:,.0f}" if memory else NOTHING,
        compact(max(run.values["parameters"] for run in runs)),
        _range(epochs),
    )


def compact(count: int) -> str:
    """``3,499``, ``812 k``, ``12.2 M``: three significant digits from ten thousand on."""
    if count < 10_000:
        return f"{count:,}"
    shown = float(f"{count:.3g}")
    unit, power = next((u, p) for u, p in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if shown >= p)
    return f"{shown / power:.{max(0, 2 - int(math.log10(shown / power)))}f} {unit}"


def notes(comparison: Comparison) -> list[str]:
    """What the figures are, and what they are not."""
    question, data = comparison.question, comparison.identity.get("data", {})
    test = (
        "paired t-test"
        if question.test == "t"
        else f"paired bootstrap (studentised, {question.n_resamples:,} resamples)"
    )
    drawn = (
        "Each seed draws its own split, weights, order, masks and noise"
        if data.get("split_per_seed")
        else "The split is the same for all seeds, which draw weights, order, masks and noise"
    )
    return [
        f"{drawn}. Figures are the mean ± standard deviation over {seeds_text(comparison)} of "
        "the mean over test users.",
        f"Δ is the difference to {comparison.baseline}. p users: {test} over distinct test users, "
        "one whom several seeds test counted once with the mean of its differences; it tells "
        "whether these trained models differ. p seeds: paired t-test over seeds, from 3 seeds on; "
        "it tells whether training again would tell the same. Both two-sided, and corrected by "
        f"Holm's method for {comparison.n_compared} model"
        f"{'s' if comparison.n_compared > 1 else ''} against the baseline, not for the number of "
        "metrics and cohorts.",
        "Each run is a process of its own: peak memory is the most that it held, Python, its "
        "libraries and the data included. Training seconds include validations, not reading and "
        "testing. The best epoch is chosen on validation users; nothing is chosen on test users.",
    ]


def seeds_text(comparison: Comparison) -> str:
    """``"3 seeds"``."""
    n = len(comparison.seeds)
    return f"{n} seed{'s' if n > 1 else ''}"


def _title(comparison: Comparison) -> str:
    data = comparison.identity.get("data", {})
    users = comparison.figure(comparison.baseline, comparison.metrics[0]).n_users
    return (
        f"{data.get('name')}, {data.get('protocol')}: {seeds_text(comparison)}, "
        f"{users:,} distinct test users"
    )


def _range(values: Sequence[int]) -> str:
    if not values:
        return NOTHING
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
