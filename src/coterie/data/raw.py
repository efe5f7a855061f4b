"""The raw formats of the public data sets, from a folder or from the archive as downloaded.

=============== ============================================================================
MovieLens 100K  ``u.data`` (tabs), ``u.item`` (Latin-1, ``|``)
MovieLens 1M …  ``ratings.dat``, ``movies.dat`` (``::``): 1M and 10M
MovieLens 20M … ``ratings.csv``, ``movies.csv``: 20M, 25M and 32M
Netflix Prize   ``combined_data_*.txt`` or ``mv_*.txt``, ``movie_titles``
Taste Profile   ``train_triplets.txt``, ``unique_tracks.txt``
LightGCN text   ``train.txt``, ``test.txt``: ``user item item …`` (Gowalla, Yelp 2018, Amazon-Book)
=============== ============================================================================
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from coterie.data.archives import is_archive, unpacked
from coterie.data.columns import ITEM, RATING, ROLES, TIMESTAMP, USER
from coterie.data.guard import existing, reading
from coterie.data.interactions import Interactions
from coterie.data.log import Table, read_log
from coterie.data.netflix import netflix_ratings, netflix_titles
from coterie.data.prepare import PrepareOptions, Progress, prepare
from coterie.data.sniff import TextFormat
from coterie.data.tables import scan_text
from coterie.errors import DataError

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip

_AS_THEY_ARE = {role: role for role in ROLES}


@dataclass(frozen=True, eq=False)
class RawData:
    """A public data set's events and, where it has one, its table of items."""

    table: Table
    items: pl.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class TrainTest:
    """A published pair of training and test interactions."""

    train: Interactions
    test: Interactions


@dataclass(frozen=True)
class RawFormat:
    """One raw format: how to know it by its files' names, and how to read them.

    Parameters
    ----------
    name
        What to call it.
    key
        Pattern of the last name of the files that hold the events.
    extra
        Pattern of the last name of the files about the items.
    read
        Event files and extra files → :class:`RawData`.
    """

    name: str
    key: re.Pattern[str]
    extra: re.Pattern[str]
    read: Callable[[Sequence[Path], Sequence[Path]], RawData]


def is_raw(path: Path) -> bool:
    """Whether a folder, archive or file may hold a public data set in its raw format."""
    if path.is_dir():
        with reading(str(path)):
            names = [p.name for p in path.iterdir()]
            names += [p.name for d in path.iterdir() if d.is_dir() for p in d.iterdir()]
        return _format_of(names) is not None
    return is_archive(path) or bool(NETFLIX.key.fullmatch(path.name))


@contextmanager
def open_raw(path: Path | str) -> Iterator[RawData]:
    """Yield the events and items of a public data set; lazily, so read them within the block.

    Raises
    ------
    DataError
        No known data set is there, or a file of it is damaged.
    """
    path = existing(path)
    with unpacked(path, _is_wanted) as files:
        format_ = _format_of([file.name for file in files])
        if format_ is None:
            known = "; ".join(f"{f.name} ({f.key.pattern})" for f in FORMATS)
            raise DataError(f"{path} holds no data set that we know. Known are: {known}.")
        with reading(str(path)):
            data = format_.read(
                [file for file in files if format_.key.fullmatch(file.name)],
                [file for file in files if format_.extra.fullmatch(file.name)],
            )
        yield data


def read_lightgcn(
    path: Path | str,
    *,
    options: PrepareOptions | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> TrainTest:
    """Read ``train.txt`` and ``test.txt`` in LightGCN's text form, each by itself.

    Parameters
    ----------
    path
        The folder or archive with both files; a line is ``user item item …``.

    Raises
    ------
    DataError
        One of the files is not there, or a line is not made of ids.
    """
    path = existing(path)
    options = options or PrepareOptions()
    with unpacked(path, lambda file: file in ("train.txt", "test.txt")) as files:
        found = {file.name: file for file in reversed(files)}
        missing = {"train.txt", "test.txt"} - set(found)
        if missing:
            raise DataError(f"{path}: there is no {' and no '.join(sorted(missing))}.")
        parts = [
            prepare(
                read_log(_adjacency([found[file]]), options),
                options=options,
                name=f"{name or path.name.split('.')[0]}-{file.removesuffix('.txt')}",
                source={"read_from": file},
                progress=progress,
            )
            for file in ("train.txt", "test.txt")
        ]
    return TrainTest(*parts)


def _is_wanted(name: str) -> bool:
    return any(f.key.fullmatch(name) or f.extra.fullmatch(name) for f in FORMATS)


def _format_of(names: Sequence[str]) -> RawFormat | None:
    for format_ in FORMATS:
        matches = {name for name in names if format_.key.fullmatch(name)}
        if matches and (format_ is not LIGHTGCN or len(matches) == 2):
            return format_
    return None


def _movielens_100k(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    text = TextFormat("\t", False, 0, ROLES, quoted=False, third_is_time=False)
    items = None
    if extra:
        rows = [line.split("|") for line in _lines(extra[0]) if line]
        _require_widths(rows, 5 + len(GENRES_100K), extra[0])
        genres = (
            "|".join(genre for genre, flag in zip(GENRES_100K, row[5:], strict=True) if flag == "1")
            for row in rows
        )
        items = _items([row[0] for row in rows], [row[1] for row in rows], list(genres))
    return RawData(Table(scan_text(events[0], text), _AS_THEY_ARE, events[0].name, True), items)


def _movielens_dat(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    text = TextFormat("::", False, 0, ROLES, quoted=False, third_is_time=False)
    items = None
    if extra:
        rows = [line.split("::") for line in _lines(extra[0]) if line]
        _require_widths(rows, 3, extra[0])
        items = _items(*([row[i] for row in rows] for i in range(3)))
    return RawData(Table(scan_text(events[0], text), _AS_THEY_ARE, events[0].name, True), items)


def _movielens_csv(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    columns = ("userId", "movieId", RATING, TIMESTAMP)
    first = _lines(events[0], 1)
    if first != [",".join(columns)]:
        raise DataError(
            f"{events[0].name}: expected the columns {', '.join(columns)}, got {first}."
        )
    text = TextFormat(",", True, 1, columns, quoted=True, third_is_time=False)
    items = None
    if extra:
        table = pl.read_csv(extra[0], infer_schema=False, glob=False)
        if not {"movieId", "title", "genres"} <= set(table.columns):
            raise DataError(f"{extra[0].name}: expected movieId, title, genres: {table.columns}.")
        items = _items(*(table[name].to_list() for name in ("movieId", "title", "genres")))
    roles = dict(zip(ROLES, columns, strict=True))
    return RawData(Table(scan_text(events[0], text), roles, events[0].name, True), items)


def _netflix(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    label = events[0].name + (" …" if len(events) > 1 else "")
    table = Table(netflix_ratings(events).lazy(), _AS_THEY_ARE, label)
    return RawData(table, netflix_titles(extra[0]) if extra else None)


def _taste_profile(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    text = TextFormat("\t", False, 0, (USER, ITEM, RATING), quoted=False, third_is_time=False)
    items = None
    if extra:  # track<SEP>song<SEP>artist<SEP>title
        rows = {row[1]: row for line in _lines(extra[0]) if len(row := line.split("<SEP>")) == 4}
        items = pl.DataFrame(
            {
                ITEM: list(rows),
                "title": [row[3] for row in rows.values()],
                "artist": [row[2] for row in rows.values()],
            }
        )
    roles = {role: role for role in (USER, ITEM, RATING)}
    return RawData(Table(scan_text(events[0], text), roles, events[0].name, True), items)


def _lightgcn(events: Sequence[Path], extra: Sequence[Path]) -> RawData:
    """Both files together; :func:`read_lightgcn` keeps them apart."""
    return RawData(_adjacency(events))


def _adjacency(files: Sequence[Path]) -> Table:
    text = TextFormat(" ", False, 0, (USER, ITEM), quoted=False, third_is_time=False, ragged=True)
    frame = pl.concat([scan_text(file, text) for file in files])
    return Table(frame, {USER: USER, ITEM: ITEM}, " + ".join(file.name for file in files))


def _lines(path: Path, count: int | None = None) -> list[str]:
    """Lines of a small text file, UTF-8 or else Latin-1 (the older MovieLens files)."""
    with path.open("rb") as file:
        raw = file.read() if count is None else b"".join(file.readline() for _ in range(count))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [line.rstrip("\r") for line in text.rstrip("\n").split("\n")]


def _require_widths(rows: Sequence[Sequence[str]], width: int, path: Path) -> None:
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(f"{path.name}, line {number}: expected {width} fields, got {len(row)}.")


def _items(ids: Sequence[str], titles: Sequence[str], genres: Sequence[str]) -> pl.DataFrame:
    frame = pl.DataFrame({ITEM: ids, "title": titles, "genres": genres}, strict=True)
    none = pl.col("genres").is_in(["(no genres listed)", ""])
    genres_or_null = pl.when(~none).then("genres").alias("genres")
    return frame.with_columns(genres_or_null).unique(ITEM, keep="first", maintain_order=True)


def _format(name: str, key: str, extra: str, read: Callable[..., RawData]) -> RawFormat:
    return RawFormat(name, re.compile(key), re.compile(extra), read)


MOVIELENS_100K = _format("MovieLens 100K", r"u\.data", r"u\.item", _movielens_100k)
MOVIELENS_DAT = _format("MovieLens 1M/10M", r"ratings\.dat", r"movies\.dat", _movielens_dat)
MOVIELENS_CSV = _format("MovieLens 20M/25M/32M", r"ratings\.csv", r"movies\.csv", _movielens_csv)
NETFLIX = _format(
    "Netflix Prize",
    r"combined_data_\d+\.txt|mv_\d+\.txt",
    r"movie_titles\.(?:csv|txt)",
    _netflix,
)
TASTE_PROFILE = _format(
    "Taste Profile", r"train_triplets\.txt", r"unique_tracks\.txt", _taste_profile
)
LIGHTGCN = _format("LightGCN text", r"train\.txt|test\.txt", r"(?!)", _lightgcn)
FORMATS = (MOVIELENS_100K, MOVIELENS_DAT, MOVIELENS_CSV, NETFLIX, TASTE_PROFILE, LIGHTGCN)
