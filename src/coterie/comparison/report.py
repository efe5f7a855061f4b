"""What a comparison found: a page, tables in Markdown and LaTeX, and everything as JSON."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.comparison.grids import (
    Grid,
    cohort_grid,
    difference_texts,
    main_grid,
    metric_grid,
    notes,
    spread,
)
from coterie.comparison.outcome import Comparison
from coterie.comparison.text import latex, markdown
from coterie.errors import MissingExtraError
from coterie.files import atomic_file
from coterie.mechanisms.page import Image, Panel, Section, Table, write_page
from coterie.mechanisms.style import BLUE, VERMILION, new_figure
from coterie.training.config import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

PAGE, MARKDOWN, LATEX, RESULTS = "report.html", "table.md", "table.tex", "results.json"
EXTRAS = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}
INCHES_PER_MODEL = 0.32


def require_extras() -> None:
    """Find out before training what the report would lack after it."""
    missing = [name for module, name in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"The report needs {', '.join(missing)}: pip install 'coterie[mechanisms]'."
        )


def write_results(comparison: Comparison, folder: Path) -> list[Path]:
    """Write page, Markdown, LaTeX and JSON into ``folder``; return their paths in this order."""
    name = comparison.identity.get("data", {}).get("name")
    page = write_page(
        folder / PAGE, f"Models compared on {name}", sections(comparison), lead=[_lead(comparison)]
    )
    texts = {
        MARKDOWN: markdown(comparison),
        LATEX: latex(comparison),
        RESULTS: json.dumps(finite(comparison.to_dict()), indent=1, allow_nan=False) + "\n",
    }
    for file, text in texts.items():
        with atomic_file(folder / file) as aside:
            aside.write_text(text, encoding="utf-8")
    return [page, *(folder / file for file in texts)]


def sections(comparison: Comparison) -> list[Section]:
    """The page's parts: the table, the plot, each metric, history lengths, runs, settings."""
    lead = comparison.metrics[0]
    plot = Image.of(
        plotted(comparison), f"Plot: {lead} of each model and seed. The table has the numbers."
    )
    panel = Panel(f"{lead}: mean ± standard deviation, and each seed", plot)
    parts = [
        Section("Comparison", "comparison", (), (_table(main_grid(comparison)),), (panel,)),
        Section(
            "Differences",
            "differences",
            (f"Each metric's difference to {comparison.baseline}, with its interval over users.",),
            tuple(_table(metric_grid(comparison, metric)) for metric in comparison.metrics),
        ),
    ]
    if comparison.cohorts:
        parts.append(
            Section(
                "By history length",
                "cohorts",
                ("Mean over seeds and difference; * p < 0.05 over users, corrected.",),
                (_table(cohort_grid(comparison)), *_cohort_tables(comparison)),
            )
        )
    return [
        *parts,
        Section("Runs", "runs", tables=(_runs(comparison),)),
        Section("Settings", "settings", tables=(_settings(comparison),)),
        Section("How it was done", "method", tuple(notes(comparison))),
    ]


def plotted(comparison: Comparison) -> "Plot":
    """The leading metric of each model: every seed, and mean ± standard deviation."""
    lead, names = comparison.metrics[0], comparison.names[::-1]
    figure, (axes,) = new_figure(height=1.2 + INCHES_PER_MODEL * len(names))
    for at, name in enumerate(names):
        found = comparison.figure(name, lead)
        color = VERMILION if name == comparison.baseline else BLUE
        deviation = 0 if math.isnan(found.deviation) else found.deviation
        axes.errorbar(found.mean, at, xerr=deviation, fmt="o", color=color, capsize=3, markersize=6)
        axes.plot(found.by_seed, [at] * len(found.by_seed), "|", color=color, alpha=0.6)
    labels = [name if len(name) <= 28 else f"{name[:27]}…" for name in names]
    axes.set_yticks(range(len(names)), [label.replace("$", r"\$") for label in labels])
    axes.set_xlabel(lead)
    return figure


def finite(value: Any) -> Any:
    """The value without what JSON lacks: NaN becomes null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lead(comparison: Comparison) -> str:
    return f"{main_grid(comparison).title}; differences are to {comparison.baseline}."


def _table(grid: Grid) -> Table:
    rows = tuple(tuple(cell.text for cell in row) for row in grid.rows)
    return Table(grid.title, grid.head, rows)


def _cohort_tables(comparison: Comparison) -> list[Table]:
    lead = comparison.metrics[0]
    tables = []
    for cohort in comparison.cohorts:
        found = {name: comparison.figure(name, lead, cohort.name) for name in comparison.names}
        rows = tuple(
            (name, spread(one), *difference_texts(one.difference)) for name, one in found.items()
        )
        size = found[comparison.baseline].n_users
        caption = f"{lead}, {cohort.name} items, {size:,} users"
        tables.append(Table(caption, ("model", lead, "Δ", "p users", "p seeds"), rows))
    return tables


def _runs(comparison: Comparison) -> Table:
    rows = []
    for name in comparison.names:
        for run in comparison.runs[name]:
            values = run.values
            memory, device = values["peak_memory"], values["peak_device_memory"]
            rows.append(
                (
                    name,
                    str(run.seed),
                    *(f"{run.mean(metric):.4f}" for metric in comparison.metrics),
                    _or_dash(values["best_epoch"]),
                    _or_dash(values["epochs"]),
                    f"{run.train_seconds:,.1f}",
                    _or_dash(memory and f"{memory / 2**20:,.0f}"),
                    _or_dash(device and f"{device / 2**20:,.0f}"),
                    f"{values['device']}, {values['threads']} threads",
                )
            )
    head = ("best epoch", "epochs", "train s", "peak MiB", "of the GPU", "where")
    return Table("Runs", ("model", "seed", *comparison.metrics, *head), tuple(rows))


def _settings(comparison: Comparison) -> Table:
    rows = tuple(
        (name, settings_text(comparison.runs[name][0].values["settings"]))
        for name in comparison.names
    )
    return Table(
        "Of a VAE, what differs from Multi-VAE's defaults; results.json has all",
        ("model", "settings"),
        rows,
        frozenset({1}),
    )


def settings_text(settings: dict[str, Any]) -> str:
    """A contestant's settings in a line; of a VAE only those that are not the defaults."""
    if settings["kind"] == "vae":
        usual = _flat(Experiment().model_dump(mode="json"))
        found = _flat(settings["experiment"])
        changed = {key: value for key, value in found.items() if value != usual.get(key)}
        return "; ".join(f"{key} = {value}" for key, value in changed.items()) or "the defaults"
    if settings["kind"] == "baseline":
        options = [f"{key} = {value}" for key, value in settings["options"].items()]
        return "; ".join([settings["method"], *options])
    return f"a trained model, SHA-256 {settings['sha256'][:16]}"


def _flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            _flat(value, f"{within}{key}.") if isinstance(value, dict) else {within + key: value}
        )
    return found


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)
