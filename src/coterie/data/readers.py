"""Read interactions from what people have: text, Parquet, Arrow, frames, sparse matrices."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp

from coterie.data.columns import ITEM, RATING, TIMESTAMP, USER, find_roles, positional_roles
from coterie.data.encode import Codes, ids_from_objects
from coterie.data.guard import existing, reading
from coterie.data.interactions import Interactions
from coterie.data.log import Table, read_log
from coterie.data.prepare import Log, PrepareOptions, Progress, prepare
from coterie.data.sniff import TextFormat, kind_of, sniff
from coterie.errors import DataError
from coterie.manifest import MANIFEST

__all__ = ["read_interactions"]


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
        ``.npz``, Parquet (a file or a folder of parts), Arrow or Feather, or a prepared folder. Or
        an object: polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, SciPy sparse
        matrix or array (row and column numbers are the ids).
    options
        Columns, filters and types; see :class:`PrepareOptions`.
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
    label = _label(source)
    tell(f"reading {label}")
    log = _log_of(source, options, label)
    table = None if items is None else read_item_table(items, column=None)
    return prepare(
        log,
        options=options,
        items=table,
        name=name or label.split(".")[0],
        source={"read_from": label, "options": options.model_dump(exclude_defaults=True)},
        progress=progress,
    )


def read_item_table(source: Any, *, column: str | None = None) -> pl.DataFrame:
    """A table about items with the id column renamed ``item_id``; each item once.

    Raises
    ------
    DataError
        It cannot be read, has no column of item ids, or an item stands twice.
    """
    label = _label(source)
    with reading(label):
        frame, _ = _scan(source, PrepareOptions())
        names = frame.collect_schema().names()
        found = find_roles(names, {ITEM: column})[ITEM]
        table = frame.rename({found: ITEM}).collect(engine="streaming")
        table = table.select(ITEM, pl.exclude(ITEM)).filter(pl.col(ITEM).is_not_null())
    twice = table.filter(table[ITEM].is_duplicated())
    if len(twice):
        raise DataError(f"{label}: item {twice[ITEM][0]!r} stands more than once.")
    return table


def _log_of(source: Any, options: PrepareOptions, label: str) -> Log:
    if sp.issparse(source):
        return _matrix_log(source, label)
    if isinstance(source, (str, Path)):
        path = existing(source)
        if path.is_dir() and (path / MANIFEST).is_file():
            return _prepared_log(Interactions.open(path))
        if path.is_file() and path.suffix == ".npz":
            kind_of(path)
            with reading(str(path)), path.open("rb") as file:
                return _matrix_log(sp.load_npz(file), label)
    with reading(label):
        frame, text = _scan(source, options)
        columns = frame.collect_schema().names()
    return read_log(
        Table(frame, _roles(columns, text, options), label, skip_blank=text is not None), options
    )


def _scan(source: Any, options: PrepareOptions) -> tuple[pl.LazyFrame, TextFormat | None]:
    """A lazy frame over any tabular source; for text, its format."""
    if isinstance(source, pl.LazyFrame):
        return source, None
    if isinstance(source, pl.DataFrame):
        return _without_objects(source).lazy(), None
    if isinstance(source, (pa.Table, pa.RecordBatch)):
        return pl.DataFrame(pl.from_arrow(source)).lazy(), None
    if _is_pandas(source):
        return _from_pandas(source).lazy(), None
    if not isinstance(source, (str, Path)):
        raise DataError(
            f"Expected a path, a frame or a sparse matrix, got {type(source).__name__}."
        )
    path = existing(source)
    if path.is_dir():
        return pl.scan_parquet(_parts(path), glob=False), None
    kind = kind_of(path)
    if kind == "parquet":
        return pl.scan_parquet(path, glob=False), None
    if kind == "ipc":
        return pl.scan_ipc(path), None
    if kind == "ipc-stream":
        return pl.read_ipc_stream(path).lazy(), None
    if kind != "text":
        raise DataError(f"{path} is an archive; expected text, Parquet, Arrow or .npz.")
    text = sniff(path, separator=options.separator, header=options.header)
    return scan_text(path, text), text


def scan_text(path: Path, text: TextFormat) -> pl.LazyFrame:
    """Lazily read a text file with every field as text, so that no id loses its spelling."""
    single = len(text.separator) == 1
    frame = pl.scan_csv(
        path,
        separator=text.separator if single else "\x1f",
        has_header=False,
        skip_lines=text.skip_lines,
        schema=dict.fromkeys(text.columns, pl.String) if single else {"line": pl.String},
        quote_char='"' if text.quoted else None,
        glob=False,
    )
    if single:
        return frame
    fields = pl.col("line").str.splitn(text.separator, len(text.columns))
    return frame.select(fields.struct.rename_fields(list(text.columns)).alias("f")).unnest("f")


def _roles(
    columns: Sequence[str], text: TextFormat | None, options: PrepareOptions
) -> Mapping[str, str]:
    named = {USER: options.user, ITEM: options.item}
    optional = {RATING: options.rating, TIMESTAMP: options.timestamp}
    wanted = named | {role: name for role, name in optional.items() if name != ""}
    if text is None or text.header or any(named.values()):
        return find_roles(columns, wanted)
    given = find_roles(columns, {role: name for role, name in wanted.items() if name})
    placed = positional_roles(columns, third_is_time=text.third_is_time)
    return {role: column for role, column in placed.items() if role in wanted} | given


def _prepared_log(data: Interactions) -> Log:
    order = [np.asarray(ids.ids.arg_sort()) for ids in (data.user_ids, data.item_ids)]
    ranks = [np.argsort(places).astype(np.int32) for places in order]
    return Log(
        Codes(ranks[0][data.user_of_each()], data.user_ids.to_ids(order[0])),
        Codes(ranks[1][data.indices], data.item_ids.to_ids(order[1])),
        None if data.values is None else np.array(data.values),
        None if data.timestamps is None else np.array(data.timestamps),
    )


def _matrix_log(matrix: Any, label: str) -> Log:
    """Row and column numbers are the ids; stored zeros are no interactions."""
    with reading(label):
        if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
            raise DataError(
                f"{label}: expected a matrix of numbers [users, items], "
                f"got {matrix.ndim} dimensions of {matrix.dtype}."
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
            Codes(part[keep].astype(np.int32), pl.int_range(size, eager=True, dtype=pl.Int64))
            for part, size in zip((coo.row, coo.col), coo.shape, strict=True)
        )
    return Log(users, items, values)


def _parts(folder: Path) -> list[Path]:
    parts = sorted(
        part
        for part in folder.rglob("*")
        if part.suffix in (".parquet", ".pq") and not part.name.startswith((".", "_"))
    )
    if not parts:
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{folder} is no folder of Parquet parts, prepared data or a known data set; "
            f"it holds: {inside}."
        )
    return parts


def _is_pandas(source: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _from_pandas(frame: Any) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {}
    for place, name in enumerate(map(str, frame.columns)):
        column = frame.iloc[:, place]
        if column.dtype == object:
            columns[name] = _from_objects(
                [None if value is None or value != value else value for value in column], name
            )
        else:
            columns[name] = pl.Series(name, pl.from_pandas(column))
    return pl.DataFrame(columns)


def _without_objects(frame: pl.DataFrame) -> pl.DataFrame:
    objects = [name for name, dtype in frame.schema.items() if dtype == pl.Object]
    return frame.with_columns(_from_objects(frame[name].to_list(), name) for name in objects)


def _from_objects(values: list[Any], name: str) -> pl.Series:
    """Python objects as ids if they can be; else as numbers, dates, or their text."""
    try:
        return ids_from_objects(values, name)
    except DataError as not_ids:
        if "different ids" in str(not_ids):
            raise
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if value is None else str(value) for value in values])


def _label(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return Path(source).name or str(source)
    return f"{type(source).__module__.split('.')[0]} {type(source).__name__}"
