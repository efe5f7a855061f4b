"""What kind of file it is: by its first bytes; for text, the separator and the header."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from coterie.data.columns import ITEM, USER, looks_like_header, strip_recbole_types
from coterie.data.guard import reading
from coterie.errors import DataError

Kind = Literal["text", "parquet", "ipc", "ipc-stream", "zip", "tar"]
HEAD_BYTES = 1 << 16
SEPARATORS = ("::", "\t", ",", ";", "|", " ")
# A third column of whole numbers from here on is a time (1973 or later), not a rating.
LEAST_TIME = 10**8

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "ipc"),
    (b"\xff\xff\xff\xff", "ipc-stream"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
_BY_SUFFIX: dict[str, Kind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".npz": "zip",
    ".zip": "zip",
    ".tar": "tar",
    ".tgz": "tar",
}


@dataclass(frozen=True)
class TextFormat:
    """How a text file is to be read.

    Parameters
    ----------
    separator
        One or more characters between the fields.
    header
        Whether the first line names the columns.
    skip_lines
        Lines before the first row: blank ones and the header.
    columns
        Their names, distinct; ``column_1`` … without header.
    quoted
        Whether double quotes may enclose a field.
    third_is_time
        In a table of three columns without header, the third holds times, not ratings.
    ragged
        Lines are ``user item item …`` of any length (LightGCN's form), read as two columns.
    padded
        Fields have spaces around them, which are no part of them.
    """

    separator: str
    header: bool
    skip_lines: int
    columns: tuple[str, ...]
    quoted: bool
    third_is_time: bool
    ragged: bool = False
    padded: bool = False


MARKUP = {"<": "HTML or XML", "{": "JSON", "[": "JSON"}


def kind_of(path: Path) -> Kind:
    """The kind of a file, by its first bytes; what its name promises must be true.

    Raises
    ------
    DataError
        The file is empty, or is named like a format that it does not have.
    """
    with reading(str(path)):
        with path.open("rb") as file:
            first = file.read(8)
        if not first:
            raise DataError(f"{path} is empty.")
    kind: Kind = next((kind for magic, kind in _MAGIC if first.startswith(magic)), "text")
    if path.name.endswith((".tar.gz", ".tar.bz2", ".tar.xz")):
        return "tar"
    promised = _BY_SUFFIX.get(path.suffix.lower())
    if promised == "tar":
        return "tar"
    if promised and promised != kind and {promised, kind} != {"ipc", "ipc-stream"}:
        raise DataError(
            f"{path} is named like {promised} but its first bytes are not; "
            "it is damaged, truncated, or of another format."
        )
    return kind


def sniff(path: Path, *, separator: str | None = None, header: bool | None = None) -> TextFormat:
    """Find out how a text file (plain, .gz or .zst) is laid out, from its first 64 KiB.

    Raises
    ------
    DataError
        It is empty, not text, or no separator gives two columns.
    """
    all_lines = _first_lines(path)
    lines = [line for line in all_lines if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no rows.")
    for mark, what in MARKUP.items():
        if lines[0].lstrip().startswith(mark):
            raise DataError(
                f"{path} looks like {what}, not like a table: it begins with {lines[0][:40]!r}. "
                "Expected CSV, TSV or another text of columns; was the download an error page?"
            )
    separator = separator or _find_separator(lines, path)
    recbole = path.name.removesuffix(".gz").removesuffix(".zst").endswith((".inter", ".item"))
    quoted = len(separator) == 1 and not recbole
    cells = [_split(line, separator, quoted) for line in lines]
    if header is None:
        header = _has_header(cells)
    width = max(len(row) for row in cells) if not header else len(cells[0])
    names = strip_recbole_types([cell.strip(" ") for cell in cells[0]]) if header else []
    columns = _distinct(names) if header else [f"column_{i + 1}" for i in range(width)]
    skip_lines = all_lines.index(lines[0]) + header
    body = cells[1:] if header else cells
    if _is_adjacency(separator, header, cells):
        return TextFormat(separator, False, skip_lines, (USER, ITEM), False, False, ragged=True)
    third = [row[2] for row in body if len(row) > 2]
    times = bool(third) and all(map(_is_time, third))
    padded = separator != " " and any(cell != cell.strip(" ") for row in cells for cell in row)
    return TextFormat(separator, header, skip_lines, tuple(columns), quoted, times, padded=padded)


def _first_lines(path: Path) -> list[str]:
    with reading(str(path)):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                head = file.read(HEAD_BYTES)
        elif magic == b"\x28\xb5\x2f\xfd":
            with pa.input_stream(str(path), compression="zstd") as stream:
                head = stream.read(HEAD_BYTES)
        else:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        if b"\x00" in head:
            raise DataError(f"{path} is not text: it holds zero bytes.")
        whole = len(head) < HEAD_BYTES or b"\n" not in head
        head = head if whole else head[: head.rindex(b"\n")]
        try:
            text = head.decode("utf-8-sig", errors="strict")
        except UnicodeDecodeError as error:
            line = head[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path}, line {line}, is not UTF-8 text: byte 0x{head[error.start]:02x}; "
                "convert it (for example from Latin-1)."
            ) from error
    return text.replace("\r\n", "\n").split("\n")


def _find_separator(lines: Sequence[str], path: Path) -> str:
    for candidate in SEPARATORS:
        widths = {len(_split(line, candidate, len(candidate) == 1)) for line in lines[:100]}
        if len(widths) == 1 and widths != {1}:
            return candidate
    for candidate in SEPARATORS:  # ragged: go by the first line
        if candidate in lines[0]:
            return candidate
    raise DataError(
        f"{path}: no separator found in the first line {lines[0][:80]!r}; expected columns "
        "separated by a comma, tab, '::', ';', '|' or space (option 'separator')."
    )


def _split(line: str, separator: str, quoted: bool) -> list[str]:
    if quoted and '"' in line:
        try:
            return next(csv.reader([line], delimiter=separator))
        except csv.Error:  # an endless field, or a stray carriage return: polars will judge
            return line.split(separator)
    return line.split(separator)


def _has_header(cells: Sequence[Sequence[str]]) -> bool:
    """A usual name in the first row, or text above a column that is all numbers."""
    first, rest = cells[0], cells[1:]
    if looks_like_header(first):
        return True
    return any(
        not _is_number(name) and all(_is_number(row[i]) for row in rest if i < len(row))
        for i, name in enumerate(first)
        if len(rest) >= 2
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    return text.isdecimal() and len(text) < 20 and int(text) >= LEAST_TIME


def _is_adjacency(separator: str, header: bool, cells: Sequence[Sequence[str]]) -> bool:
    """Lines of integers, of different lengths, without header, separated by spaces."""
    if separator != " " or header or len({len(row) for row in cells}) == 1:
        return False
    return all(cell.isdecimal() for row in cells for cell in row if cell)


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result
