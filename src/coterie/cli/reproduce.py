"""``coterie reproduce``: the literature's experiments, and its figures beside ours."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from cyclopts import Parameter
from rich.table import Table

from coterie.cli.app import new_app
from coterie.cli.contestants import (
    CONTEXT,
    Epochs,
    Seeds,
    Words,
    contestant,
    line_of,
    run_context,
    shortened,
    stopped,
)
from coterie.cli.options import Checkpoints, Json, Settings, Threads, accepts
from coterie.cli.output import Output, duration, facts_table, frame_table
from coterie.cli.progress import watched
from coterie.comparison.contestants import Contestant
from coterie.comparison.runs import RunOptions, distinct
from coterie.data.datasets import DataSet, dataset
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.memory import available_bytes
from coterie.models.baselines import METHODS
from coterie.presets import PRESETS
from coterie.reproduce import report
from coterie.reproduce.cost import Cost, estimate
from coterie.reproduce.models import usual_contestant, usual_models
from coterie.reproduce.published import metrics_of
from coterie.reproduce.run import CUTS, SPLIT, Reproduction, prepared
from coterie.reproduce.run import reproduce as run_reproduction
from coterie.reproduce.sizes import SIZES
from coterie.training.config import RunContext

EXAMPLES = """\
NAME is ml-20m, netflix, msd, ml-1m or gowalla. PATH (--raw) is the archive or
folder as published; of ml-1m and gowalla also a folder with ratings.parquet, or
train.parquet and test.parquet. DIR gets the split, a record of each finished
run, results.json and results.md.

MODELS are those of `coterie compare`; without them, those that have published
figures, and the VAEs among them with PIA.

Ctrl-C stops; the same command goes on, and then needs no --raw. --dry-run
measures a few real steps and says what it all costs on this machine.

Examples:
  coterie reproduce ml-20m --dry-run
  coterie reproduce ml-20m --download --out ml-20m
  coterie reproduce netflix --raw nf_prize_dataset.tar.gz --models multi-vae+pia
  coterie reproduce ml-1m --raw ml-1m.zip --models ease multi-vae --seeds 0 1 2
"""
GIB = 2**30

app = new_app("reproduce", EXAMPLES)


@app.default
@accepts(CONTEXT)
def reproduce(
    name: Annotated[
        Literal["ml-20m", "netflix", "msd", "ml-1m", "gowalla"], Parameter(help="The data set.")
    ],
    /,
    *,
    settings: Settings,
    raw: Annotated[
        Path | None, Parameter(show_default=False, help="PATH of the files as published.")
    ] = None,
    download: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Fetch them, into downloads/NAME."),
    ] = False,
    models: Annotated[Words, Parameter(show_default=False, help="MODELS.")] = (),
    seeds: Annotated[
        Seeds, Parameter(help="Each trains every model once, on the literature's one split.")
    ] = (0,),
    epochs: Epochs = None,
    out: Annotated[
        Path | None, Parameter(show_default=False, help="DIR; else reproduced/NAME.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Say what it costs here; no more.")
    ] = False,
    checkpoints: Checkpoints = False,
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Repeat the literature's experiments and print its figures beside ours."""
    output = Output(as_json=json)
    data, context = dataset(name), run_context(settings, checkpoints=checkpoints)
    context.torch_device()
    if raw is not None and download:
        raise ConfigError("--raw names files that are there, --download fetches them; choose one.")
    folder = out or Path("reproduced") / name
    entrants = distinct([entrant(model, name) for model in models or usual_models(name)])
    contestants = shortened(entrants, epochs, output)
    seeds = tuple(dict.fromkeys(seeds))
    if dry_run:
        return _dry_run(output, data, contestants, context, len(seeds), raw, folder)
    found = run_reproduction(
        data,
        _split(output, data, raw, folder, download=download),
        contestants,
        folder,
        seeds=seeds,
        options=RunOptions(context, threads, checkpoints, watched),
        progress=lambda step: output.note(line_of(step, metrics_of(name)[-1])),
    )
    if found is None:
        return stopped(output, folder)
    written = report.write_results(found, folder)
    output.result(
        {"reproduced": str(folder), **report.to_dict(found)},
        *tables(found),
        *report.notes(found),
        f"Written: {', '.join(map(str, written))}",
    )
    return 0


def _split(
    output: Output, data: DataSet, raw: Path | None, folder: Path, *, download: bool
) -> Split:
    if download and not (folder / SPLIT).exists():
        output.note(f"{data.title}. {data.terms}")
        raw = data.fetch("downloads", show_progress=not output.as_json)
    with output.stages() as stage:
        return prepared(data, raw, folder, progress=stage)


def entrant(model: str, data: str) -> Contestant:
    """The model that a word of ``--models`` means; a bare name with its settings for the data."""
    if model in PRESETS or model in METHODS:
        return usual_contestant(model, data)
    return contestant(model)


def tables(found: Reproduction) -> list[Table]:
    """A table for each metric."""
    everything = report.rows(found)
    return [
        frame_table(
            pl.DataFrame(
                [report.cells(row) for row in everything if row.metric == metric],
                schema=dict.fromkeys(report.HEAD, pl.String),
                orient="row",
            ),
            f"{found.data.title}: {metric}",
        )
        for metric in found.metrics
    ]


def _dry_run(
    output: Output,
    data: DataSet,
    contestants: Sequence[Contestant],
    context: RunContext,
    n_seeds: int,
    raw: Path | None,
    folder: Path,
) -> int:
    with output.stages() as stage:
        cost = estimate(
            data,
            SIZES[data.name],
            contestants,
            n_seeds=n_seeds,
            cuts=CUTS,
            context=context,
            given=raw is not None,
            tell=stage,
        )
    free = {"memory_free_bytes": available_bytes(), "disk_free_bytes": _free_disk(folder)}
    output.result(
        {"dry_run": data.name, **cost.to_dict(), **free},
        _whole(data, cost, free),
        _by_model(cost),
        f"Sizes: {cost.source}. Times are of this machine as it is loaded now; VAEs may stop "
        "earlier, by patience.",
        *_shortages(cost, free),
    )
    return 0


def _whole(data: DataSet, cost: Cost, free: dict[str, int | None]) -> Table:
    return facts_table(
        f"{data.title}: what it costs here",
        {
            "download": _size(cost.download_bytes),
            "disk, at most": f"{_size(cost.disk_bytes)} (free: {_size(free['disk_free_bytes'])})",
            "of that to stay": _size(cost.download_bytes + cost.split_bytes),
            "memory, at most": f"{_size(cost.peak_bytes)} (free: "
            f"{_size(free['memory_free_bytes'])})",
            "reading": duration(cost.read_seconds),
            "all models": f"{duration(cost.seconds)}, {cost.n_seeds} seed"
            f"{'s' if cost.n_seeds > 1 else ''} each",
        },
    )


def _by_model(cost: Cost) -> Table:
    rows = [
        {
            "model": one.name,
            "an epoch": "–" if one.epoch_seconds is None else duration(one.epoch_seconds),
            "epochs": "–" if one.epochs is None else f"≤ {one.epochs}",
            "in all": duration(one.seconds),
            "memory": _size(one.peak_bytes),
            "measured": one.how,
        }
        for one in cost.models
    ]
    return frame_table(pl.DataFrame(rows), "With one seed")


def _shortages(cost: Cost, free: dict[str, int | None]) -> list[str]:
    found = []
    memory, disk = free["memory_free_bytes"], free["disk_free_bytes"]
    for one in cost.models:
        if memory is not None and one.peak_bytes > memory:
            found.append(f"{one.name} needs more memory than is free here.")
    if disk is not None and cost.disk_bytes > disk:
        found.append("There is not enough free disk.")
    return found


def _free_disk(folder: Path) -> int | None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "unknown"
    if n_bytes < GIB:
        return f"{n_bytes / 2**20:,.0f} MiB"
    return f"{n_bytes / GIB:,.1f} GiB"
