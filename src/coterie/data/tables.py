"""Any table of events, lazily: text, Parquet, Arrow, polars, pandas, pyarrow."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from coterie.data.columns import ITEM, RATING, TIMESTAMP, USER, find_roles, positional_roles
from coterie.data.encode import ids_from_objects
from coterie.data.guard import existing, reading
from coterie.data.log import Table
from coterie.data.prepare import PrepareOptions
from coterie.data.sniff import TextFormat, kind_of, sniff
from coterie.errors import DataError


def open_table(source: Any, options: PrepareOptions) -> Table:
    """A lazy table over a path or frame, with its columns' roles.

    Raises
    ------
    DataError
        The source is not a table that can be read, or a column is missing.
    """
    label = label_of(source)
    if _is_pandas(source):  # other columns of Python objects would only cost time
        names = list(map(str, source.columns))
        source = source.iloc[
            :, [names.index(name) for name in _roles(names, None, options).values()]
        ]
    with reading(label):
        frame, text = _scan(source, options)
        columns = frame.collect_schema().names()
    return Table(frame, _roles(columns, text, options), label, skip_blank=text is not None)


def read_item_table(source: Any, *, column: str | None = None) -> pl.DataFrame:
    """A table about items with the id column renamed ``item_id``; each item once.

    Raises
    ------
    DataError
        It cannot be read, has no column of item ids, or an item stands twice.
    """
    label = label_of(source)
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
        return pl.scan_ipc(path, glob=False), None
    if kind == "ipc-stream":
        return pl.read_ipc_stream(path).lazy(), None
    if kind != "text":
        raise DataError(f"{path} is an archive; expected text, Parquet, Arrow or .npz.")
    text = sniff(path, separator=options.separator, header=options.header)
    return scan_text(path, text), text


def scan_text(path: Path, text: TextFormat) -> pl.LazyFrame:
    """Lazily read a text file with every field as text, so that no id loses its spelling."""
    single = len(text.separator) == 1 and not text.ragged
    frame = pl.scan_csv(
        path,
        separator=text.separator if single else "\x1f",
        has_header=False,
        skip_lines=text.skip_lines,
        schema=dict.fromkeys(text.columns, pl.String) if single else {"line": pl.String},
        missing_columns="insert",  # a short first row: nulls, which are reported by row
        quote_char='"' if text.quoted else None,
        glob=False,
    )
    if single:
        return frame.select(pl.all().str.strip_chars(" ")) if text.padded else frame
    if text.ragged:
        cells = pl.col("line").str.strip_chars().str.split(text.separator)
        items = cells.list.slice(1).alias(ITEM)
        rows = frame.select(cells.list.first().alias(USER), items).explode(
            ITEM, empty_as_null=False
        )
        return rows.filter(pl.col(ITEM) != "")
    fields = pl.col("line").str.splitn(text.separator, len(text.columns))
    split = frame.select(fields.struct.rename_fields(list(text.columns)).alias("f")).unnest("f")
    return split.select(pl.all().str.strip_chars(" ")) if text.padded else split


def _roles(
    columns: Sequence[str], text: TextFormat | None, options: PrepareOptions
) -> Mapping[str, str]:
    if text is not None and text.ragged:
        return {USER: USER, ITEM: ITEM}
    named = {USER: options.user, ITEM: options.item}
    optional = {RATING: options.rating, TIMESTAMP: options.timestamp}
    wanted = named | {role: name for role, name in optional.items() if name != ""}
    if text is None or text.header or any(named.values()):
        return find_roles(columns, wanted)
    given = find_roles(columns, {role: name for role, name in wanted.items() if name})
    placed = positional_roles(columns, third_is_time=text.third_is_time)
    return {role: column for role, column in placed.items() if role in wanted} | given


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


def label_of(source: Any) -> str:
    """What to call a source in messages: the file's name, or the kind of object."""
    if isinstance(source, (str, Path)):
        return Path(source).name or str(source)
    return f"{type(source).__module__.split('.')[0]} {type(source).__name__}"
