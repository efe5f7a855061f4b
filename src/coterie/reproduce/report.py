"""Our figures beside the published ones: rows, Markdown, JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.files import atomic_file
from coterie.reproduce.published import GOWALLA_METRICS, LIANG_METRICS, published
from coterie.reproduce.run import Reproduction
from coterie.reproduce.sizes import SIZES

RESULTS, MARKDOWN = "results.json", "results.md"
NONE = "–"
DECIMALS = {**dict.fromkeys(LIANG_METRICS, 3), **dict.fromkeys(GOWALLA_METRICS, 4)}
"""As the papers print them."""


@dataclass(frozen=True)
class Row:
    """A metric of a model: ours, published, or both.

    Parameters
    ----------
    model, metric
        What it is of.
    values
        Ours, of each seed; empty if the model was not trained.
    published
        None if no source reports it.
    source
        Where the published figure stands; empty without one.
    """

    model: str
    metric: str
    values: tuple[float, ...]
    published: float | None
    source: str

    @property
    def ours(self) -> float | None:
        """Mean over seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n − 1); None below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours minus the published figure."""
        if self.ours is None or self.published is None:
            return None
        return self.ours - self.published

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "metric": self.metric,
            "ours": self.ours,
            "deviation": self.deviation,
            "seeds": list(self.values),
            "published": self.published,
            "difference": self.difference,
            "source": self.source or None,
        }


def rows(found: Reproduction) -> list[Row]:
    """Metric by metric, our models first, then those of which there are published figures only."""
    known = {row.model: row for row in published(found.data.name)}
    models = list(dict.fromkeys([*found.runs, *known]))
    result = []
    for metric in found.metrics:
        for model in models:
            values = tuple(run.mean(metric) for run in found.runs.get(model, ()))
            row = known.get(model)
            figure = None if row is None else row.figures.get(metric)
            if values or figure is not None:
                source = "" if row is None or figure is None else row.source
                result.append(Row(model, metric, values, figure, source))
    return result


def cells(row: Row) -> tuple[str, ...]:
    """Model, ours ± deviation, published, difference, source."""
    spread = "" if row.deviation is None else f" ±{row.deviation:.4f}"
    return (
        row.model,
        NONE if row.ours is None else f"{row.ours:.4f}{spread}",
        NONE if row.published is None else f"{row.published:.{DECIMALS[row.metric]}f}",
        NONE if row.difference is None else f"{row.difference:+.4f}".replace("-", "−"),
        row.source or NONE,
    )


HEAD = ("model", "ours", "published", "difference", "source")


def sizes(found: Reproduction) -> dict[str, dict[str, int]]:
    """Users, items and interactions of the split, ours and as recorded (:data:`SIZES`)."""
    split = found.split
    parts = [split.train, split.test.fold_in, split.test.held_out]
    if not found.data.is_pair:
        parts += [split.validation.fold_in, split.validation.held_out]
        users = split.train.n_users + split.validation.n_users + split.test.n_users
        interactions = sum(part.nnz for part in parts)
    else:
        users = split.test.n_users
        interactions = split.test.fold_in.nnz + split.test.held_out.nnz
    known = SIZES[found.data.name]
    ours = {"users": users, "items": split.train.n_items, "interactions": interactions}
    return {name: {"ours": value, "recorded": getattr(known, name)} for name, value in ours.items()}


def notes(found: Reproduction) -> list[str]:
    """What the figures are, and what to heed when they are compared."""
    data, seeds = found.data, found.seeds
    size = "; ".join(
        f"{name}: {value['ours']:,} (recorded {value['recorded']:,})"
        for name, value in sizes(found).items()
    )
    lines = [
        f"{data.title}; protocol: {data.protocol.source}. {size}.",
        f"Ours: mean over {len(seeds)} seed{'s' if len(seeds) > 1 else ''} of the mean over test "
        "users (± standard deviation over seeds), all on one split.",
    ]
    if epochs := _most_epochs(found):
        lines.append(f"Epochs, at most (the best on validation users is tested): {epochs}.")
    if not published(data.name):
        lines.append(f"The literature has no common figures for {data.title} in this protocol.")
    if data.is_pair:
        lines.append(
            "A tenth of the published train part chooses the epoch and is not trained on; the "
            "published figures are of training on all of it, with the epoch chosen on the test."
        )
    return lines


def _most_epochs(found: Reproduction) -> str:
    """Of each model that is trained in epochs; tells full training from a quick look."""
    settings = {name: runs[0].values["settings"] for name, runs in found.runs.items()}
    return ", ".join(
        f"{name} {values['experiment']['training']['epochs']}"
        for name, values in settings.items()
        if "experiment" in values
    )


def markdown(found: Reproduction) -> str:
    """A table for each metric, and the notes."""
    lines = [f"# {found.data.title}: ours and published", ""]
    for metric in found.metrics:
        lines += [f"## {metric}", "", _line(HEAD), _line(["---"] * len(HEAD))]
        lines += [_line(cells(row)) for row in rows(found) if row.metric == metric]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in notes(found))]) + "\n"


def to_dict(found: Reproduction) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "data": found.data.name,
        "sizes": sizes(found),
        "seeds": found.seeds,
        "rows": [row.to_dict() for row in rows(found)],
        "runs": {
            name: [
                {
                    key: run.values[key]
                    for key in ("settings", "seconds", "peak_memory", "epochs", "best_epoch")
                }
                for run in runs
            ]
            for name, runs in found.runs.items()
        },
        "notes": notes(found),
    }


def write_results(found: Reproduction, folder: Path) -> list[Path]:
    """Write JSON and Markdown; their paths."""
    texts = {
        RESULTS: json.dumps(to_dict(found), indent=1, allow_nan=False) + "\n",
        MARKDOWN: markdown(found),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _line(cells_: Sequence[str]) -> str:
    return f"| {' | '.join(cells_)} |"
