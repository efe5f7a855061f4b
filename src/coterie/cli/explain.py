"""``coterie explain``: who helps a user, and what the scores of its items rest on."""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import torch
from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from coterie.cli.app import new_app
from coterie.cli.ids import read_ids
from coterie.cli.options import Json, Overwrite, Seed
from coterie.cli.output import Output, frame_table
from coterie.cli.paths import DATA_FORMAT, SPLIT_FORMAT, format_of, model_folder, require_format
from coterie.cli.recommend import Ids
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import ConfigError, DataError, StorageError
from coterie.mechanisms.attribution import Attribution
from coterie.mechanisms.explanation import Explanation, find_user
from coterie.mechanisms.explanation import explain as measure
from coterie.mechanisms.measurement import Measurement
from coterie.mechanisms.neighbourhood import Neighbourhood
from coterie.mechanisms.numbers import number, percent
from coterie.mechanisms.style import new_figure, save_figure
from coterie.mechanisms.titles import identified
from coterie.recommender import Recommender

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. DATA is a
data set or a split; its users (a split's training users) are those who may help.
--user is one of them, or a held-out user of the split. Without --item the user's
best items are explained. @FILE stands for the ids in a file, one per line.

Examples:
  coterie explain run split --user 4711
  coterie explain run split --history 318 527 2571 --item 593
  coterie explain run data --history @watched.txt -k 3 --json
  coterie explain run split --user 4711 --figures figures
"""
FIGURES = ("explanation.png", "neighbourhood.png", "attribution.png")
USERS_SHOWN = 3  # per item

app = new_app("explain", EXAMPLES)


@app.default
def explain(
    model: Annotated[Path, Parameter(help="The model.")],
    data: Annotated[Path, Parameter(help="The community: a data set or a split.")],
    /,
    *,
    history: Annotated[Ids, Parameter(help="Item ids of one user, or @FILE.")] = None,
    user: Annotated[str | None, Parameter(help="A user of DATA instead.")] = None,
    item: Annotated[Ids, Parameter(help="Items to explain, or @FILE; else the best.")] = None,
    k: Annotated[int, Parameter(name=("-k", "--k"), help="How many of each to show.")] = 5,
    seed: Seed = 0,
    figures: Annotated[Path | None, Parameter(help="Folder to write figures (PNG) to.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Say who helps a user, and what an item's score rests on."""
    output = Output(as_json=json)
    if (history is None) == (user is None):
        raise ConfigError("Say whom to explain: give --history or --user, one of the two.")
    if figures is not None:
        _refuse_figures(figures, overwrite=overwrite)
    ids = read_ids(history)
    if ids == []:
        raise DataError("--history holds no item ids, so there is nothing to explain.")
    folder = model_folder(model)
    community, *held_out = _communities(data)
    whom: Any = user if ids is None else ids
    if ids is None:
        which, row = find_user(user, community, *held_out)
        if which:  # held out: nobody of the community
            whom = _ids_of(held_out[which - 1], row)
    found = measure(
        Recommender.load(folder),
        whom,
        community,
        items=read_ids(item),
        k=k,
        generator=torch.Generator().manual_seed(seed),
    )
    written = [] if figures is None else _write(found, figures)
    for warning in found.warnings():
        output.note(f"coterie: {warning}")
    facts = {
        "model": str(model),
        "data": str(data),
        "user": user,
        "history_items": found.n_history,
        "skipped": found.skipped or None,
        **found.to_dict(),
        "written": written,
    }
    said, of = [part.sentence() for part in found.parts], found.attribution
    tables = [item_table(of)]
    if found.neighbourhood is not None:
        tables = [neighbour_table(found.neighbourhood), *tables, holder_table(of)]
    where = [f"Written: {', '.join(written)}"] if written else []
    output.result(facts, *map(escape, said), *tables, *map(escape, where))


def neighbour_table(near: Neighbourhood) -> Table:
    """The most helpful users."""
    frame = near.to_frame().head(near.k)
    best = near.carriers.group_by("rank", maintain_order=True).first()
    named = dict(zip(best["rank"], identified(best), strict=True))
    shown = {
        "user": [str(user) for user in frame["user_id"]],
        "help": [percent(value).rjust(6) for value in frame["help"]],
        "±": [percent(value).rjust(5) for value in frame["help_se"]],
        "W1": [f"{value:5.2f}" for value in frame["w1"]],
        "radius": [number(value, 2) for value in frame["radius"]],
        "shared": frame["n_shared"],
        "most through": [named.get(rank, "–") for rank in frame["rank"]],
    }
    if not (frame["radius"] > 0).any():  # of none of them: the sentence says that nobody is inside
        del shown["radius"]
    helping = int((frame["help"] > 0).sum())
    title = "who helps (share of the user's own step)"
    if helping == 0:
        title = "nobody helps: whose step hurts least (share of the user's own step)"
    elif helping < len(frame):
        title = "who helps, and below 0 whose step hurts (share of the user's own step)"
    return frame_table(pl.DataFrame(shown), title)


def item_table(of: Attribution) -> Table:
    """What each item's score rests on."""
    frame = of.to_frame().filter(pl.col("rank") <= of.k)
    prefix = "history_"
    other = frame.select(pl.col(f"^{prefix}.*$").name.map(lambda name: name.removeprefix(prefix)))
    first = (frame["rank"] == 1).to_list()
    names = identified(frame)
    shown = {
        "item": [name if new else "" for name, new in zip(names, first, strict=True)],
        "rests on": identified(other),
        "nats" if of.probabilistic else "score": [
            f"{value:+6.3f}".replace("-", "−") for value in frame["contribution"]
        ],
    }
    return _plain(shown, "what the scores rest on (fall if left out)")


def holder_table(of: Attribution) -> Table:
    """The training users that account for each item."""
    near = of.neighbours_frame()
    texts: dict[Any, list[str]] = {}
    for item, user, influence in near.select("item_id", "user_id", "influence").iter_rows():
        texts.setdefault(item, []).append(f"{user} ({percent(influence)})")
    items = of.catalogue[of.items]
    shown = {
        "item": identified(items),
        "through users": [
            ", ".join(texts.get(item, ["–"])[:USERS_SHOWN]) for item in items["item_id"]
        ],
    }
    return _plain(shown, "which users account for them (share of a step on the item)")


def _plain(columns: dict[str, list[str]], title: str) -> Table:
    """Text as it is, an empty cell where there is none."""
    table = frame_table(pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), title)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, row))
    return table


def _communities(path: Path) -> list[Interactions]:
    """Who may help; and, of a split, the fold-ins of the held-out users."""
    if format_of(path) == SPLIT_FORMAT:
        split = Split.open(path, verify=True)
        return [split.train, split.validation.fold_in, split.test.fold_in]
    require_format(path, DATA_FORMAT)
    return [Interactions.open(path, verify=True)]


def _ids_of(fold_in: Interactions, row: int) -> list[Any]:
    ids: list[Any] = fold_in.item_ids.to_ids(fold_in.row(row)).to_list()
    return ids


def _refuse_figures(folder: Path, *, overwrite: bool) -> None:
    """Before any work: matplotlib is there, and nothing is in the way."""
    new_figure()
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file; --figures needs a folder.")
    taken = [name for name in FIGURES if (folder / name).exists()]
    if taken and not overwrite:
        raise StorageError(
            f"{folder} holds {', '.join(taken)} already; choose another folder, or --overwrite."
        )


def _write(found: Explanation, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    parts: tuple[Measurement, ...] = (found, *found.parts)
    return [str(save_figure(part.plot(), folder / f"{part.name}.png")) for part in parts]
