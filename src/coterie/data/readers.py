"""Read interactions from what people have: text, Parquet, Arrow, frames, sparse matrices."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from coterie.data.columns import RATING, TIMESTAMP
from coterie.data.encode import MAX_IDS, Codes, encode
from coterie.data.guard import existing, reading
from coterie.data.interactions import Interactions
from coterie.data.liang import is_liang, liang_log, read_liang_split
from coterie.data.log import OPTIONS, read_log
from coterie.data.prepare import Log, PrepareOptions, Progress, prepare
from coterie.data.raw import is_raw, open_raw
from coterie.data.sniff import kind_of
from coterie.data.tables import label_of, open_table, read_item_table
from coterie.errors import DataError
from coterie.manifest import MANIFEST

__all__ = ["read_interactions", "read_item_table", "read_liang_split"]


def read_interactions(
    source: Any,
    *,
    options: PrepareOptions | None = None,
    items: Any = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Read a log of interactions, check it, filter it, and lay it out as compressed rows.

    Parameters
    ----------
    source
        A path: CSV, TSV, ``::`` separated or RecBole ``.inter`` text (plain, .gz or .zst), CSR
        ``.npz``, Parquet (a file or a folder of parts), Arrow or Feather, LightGCN's ``user item
        item …`` text, the folder of Liang et al. (all its parts together; see
        :func:`read_liang_split`), a public data set as a folder or as downloaded (see
        :mod:`coterie.data.raw`), or a prepared folder.
        Or an object: polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, SciPy sparse
        matrix or array (row and column numbers are the ids).
    options
        Columns, filters and types; see :class:`PrepareOptions`. Where the form of the source
        settles the columns (prepared, matrix, a public data set), they cannot be named, but ratings
        and times can be ignored.
    items
        Optional table about the items, in any of the same formats; it needs a column of item ids.
    name
        What to call the data in reports; default: the file's name.
    progress
        Called with the name of each stage as it begins.

    Returns
    -------
    Interactions
        Users and items that have an interaction left, ids sorted, whatever the order of the rows.

    Raises
    ------
    DataError
        The source cannot be read, a column is missing, a row is wrong, or nothing is left.
    """
    options = options or PrepareOptions()
    tell = progress or (lambda stage: None)
    label = label_of(source)
    tell(f"reading {label}")
    read = _read(source, options, label)
    return prepare(
        read.log,
        options=options,
        items=read.items if items is None else read_item_table(items),
        name=name or read.name or label.split(".")[0],
        source={"read_from": label, "options": options.model_dump(exclude_defaults=True)},
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class _Read:
    log: Log
    items: pl.DataFrame | None = None
    name: str | None = None


def _read(source: Any, options: PrepareOptions, label: str) -> _Read:
    """The log of any source, and the table of items where the source has one."""
    if sp.issparse(source):
        _refuse_names(options, label, {})
        return _Read(_matrix_log(source, label, options))
    if isinstance(source, (str, Path)):
        path = existing(source)
        if (path / MANIFEST).is_file():
            _refuse_names(options, label, {})
            data = Interactions.open(path)
            return _Read(_prepared_log(data, options), data.items, data.name)
        if path.is_dir() and is_liang(path):
            _refuse_names(options, label, {})
            return _Read(liang_log(path))
        if path.suffix == ".npz" and path.is_file():
            kind_of(path)
            _refuse_names(options, label, {})
            with reading(str(path)), path.open("rb") as file:
                return _Read(_matrix_log(sp.load_npz(file), label, options))
        if is_raw(path):
            with open_raw(path) as raw:
                _refuse_names(options, label, raw.table.roles)
                return _Read(read_log(raw.table, options), raw.items)
    return _Read(read_log(open_table(source, options), options))


def _refuse_names(options: PrepareOptions, label: str, columns: Mapping[str, str]) -> None:
    """Refuse names of columns where the source settles which they are; "" still ignores one."""
    for role, option in OPTIONS.items():
        name = getattr(options, option)
        ignored = name == "" and role in (RATING, TIMESTAMP)
        if name is not None and not ignored and columns.get(role) != name:
            known = "; here it is " + repr(columns[role]) if role in columns else ""
            raise DataError(
                f"{label}: {option}={name!r} names a column, but this source has its columns in a "
                f"fixed form{known}. Leave the option out (rating='' and timestamp='' ignore one)."
            )


def _prepared_log(data: Interactions, options: PrepareOptions) -> Log:
    order = [np.asarray(ids.ids.arg_sort()) for ids in (data.user_ids, data.item_ids)]
    ranks = [np.argsort(places).astype(np.int32) for places in order]
    return Log(
        Codes(ranks[0][data.user_of_each()], data.user_ids.to_ids(order[0])),
        Codes(ranks[1][data.indices], data.item_ids.to_ids(order[1])),
        None if data.values is None or options.rating == "" else np.array(data.values),
        None if data.timestamps is None or options.timestamp == "" else np.array(data.timestamps),
    )


def _matrix_log(matrix: Any, label: str, options: PrepareOptions) -> Log:
    """Row and column numbers are the ids; stored zeros are no interactions."""
    with reading(label):
        if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
            raise DataError(
                f"{label}: expected a matrix of numbers [users, items], "
                f"got {matrix.ndim} dimensions of {matrix.dtype}."
            )
        if max(matrix.shape) > MAX_IDS:
            raise DataError(
                f"{label}: the matrix is {matrix.shape[0]} x {matrix.shape[1]}; at most {MAX_IDS} "
                "users and as many items can be held."
            )
        coo = sp.coo_array(matrix)
        keep = coo.data != 0
        values = coo.data[keep].astype(np.float32)
        wrong = ~np.isfinite(values)
        if wrong.any():
            at = int(np.flatnonzero(keep)[wrong.argmax()])
            raise DataError(
                f"{label}: the value at row {coo.row[at]}, column {coo.col[at]} is not finite."
            )
        users, items = (
            encode(pl.Series(name, part[keep]))  # not an id per row of the shape: it may be vast
            for name, part in (("row", coo.row), ("column", coo.col))
        )
    return Log(users, items, None if options.rating == "" else values)
