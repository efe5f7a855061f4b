"""The folder that Liang et al.'s code writes, kept as the split that it is.

``unique_sid.txt`` (one item id per line; the line's number from 0 is the ``sid``), ``train.csv``,
``validation_tr.csv``, ``validation_te.csv``, ``test_tr.csv`` and ``test_te.csv`` (``uid,sid``).

Source: Liang et al., *Variational Autoencoders for Collaborative Filtering*, WWW 2018.
"""

from pathlib import Path

import numpy as np
import polars as pl

from coterie.data.encode import Codes, resolve_text
from coterie.data.guard import existing, reading
from coterie.data.ids import IdMap
from coterie.data.log import read_log
from coterie.data.parts import HeldOut, Split
from coterie.data.prepare import Log, PrepareOptions, arrange
from coterie.data.tables import open_table
from coterie.errors import DataError

ITEM_FILE = "unique_sid.txt"
PARTS = ("train", "validation_tr", "validation_te", "test_tr", "test_te")
_OPTIONS = PrepareOptions(user="uid", item="sid", header=True, separator=",", id_type="integer")


def is_liang(folder: Path) -> bool:
    """Whether a folder holds a split as Liang et al.'s code writes it."""
    return (folder / ITEM_FILE).is_file() and (folder / "train.csv").is_file()


def read_liang_split(folder: Path | str) -> Split:
    """Read the published split: training users, validation users and test users.

    Returns
    -------
    Split
        Protocol ``"given"``; the items are those of ``unique_sid.txt``, sorted by their id.

    Raises
    ------
    DataError
        A file is missing or damaged, a ``sid`` has no line in ``unique_sid.txt``, or users of the
        validation or test part are among the training users.
    """
    folder = existing(folder)
    items = _item_ids(folder)
    logs = {part: _read(folder, part, items) for part in PARTS}
    item_map = IdMap(items.sort())
    train = arrange(logs["train"], item_ids=item_map, name=f"{folder.name}-train")
    parts = {}
    for part in ("validation", "test"):
        known, hidden = logs[f"{part}_tr"], logs[f"{part}_te"]
        users = IdMap(pl.concat([known.users.ids, hidden.users.ids]).unique().sort())
        shared = int((train.user_ids.to_index(users.ids) >= 0).sum())
        if shared:
            raise DataError(
                f"{folder}: {shared} users of the {part} part are training users too; "
                "in this split held-out users must be others."
            )
        parts[part] = HeldOut(
            arrange(known, item_ids=item_map, user_ids=users, name=f"{folder.name}-{part}"),
            arrange(hidden, item_ids=item_map, user_ids=users, name=f"{folder.name}-{part}"),
        ).check()
    settings = {"read_from": folder.name, "layout": "Liang et al."}
    return Split(train, parts["validation"], parts["test"], "given", settings)


def liang_log(folder: Path) -> Log:
    """All five parts together, as one log."""
    items = _item_ids(folder)
    return _concatenated([_read(folder, part, items) for part in PARTS])


def _item_ids(folder: Path) -> pl.Series:
    """External item ids in ``sid`` order."""
    path = existing(folder / ITEM_FILE)
    with reading(str(path)):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        names = pl.Series("item_id", lines, dtype=pl.String)
        if names.is_empty() or (names == "").any():
            raise DataError(f"{path}: expected one item id per line, got an empty line or file.")
        if names.n_unique() != len(names):
            twice = names.filter(names.is_duplicated())[0]
            raise DataError(f"{path}: item {twice!r} stands more than once.")
        return resolve_text(names, id_type="auto", name="item_id")


def _read(folder: Path, part: str, items: pl.Series) -> Log:
    path = existing(folder / f"{part}.csv")
    log = read_log(open_table(path, _OPTIONS), _OPTIONS)
    sids = log.items.ids.to_numpy()
    if len(sids) and (sids[0] < 0 or sids[-1] >= len(items)):
        wrong = sids[0] if sids[0] < 0 else sids[-1]
        raise DataError(f"{path}: sid {wrong} has no line in {ITEM_FILE} ({len(items)} lines).")
    names = items.gather(log.items.ids)
    order = names.arg_sort()
    rank = np.empty(len(names), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(names), dtype=np.int32)
    log.items = Codes(rank[log.items.codes], names.gather(order))
    return log


def _concatenated(logs: list[Log]) -> Log:
    def joined(columns: list[Codes]) -> Codes:
        ids = pl.concat([column.ids for column in columns]).unique().sort()
        lookup = IdMap(ids)
        codes = [lookup.to_index(column.ids).astype(np.int32)[column.codes] for column in columns]
        return Codes(np.concatenate(codes), ids)

    return Log(joined([log.users for log in logs]), joined([log.items for log in logs]))
