"""The Netflix Prize: ratings listed under a ``movie:`` line, 100 million of them, in blocks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from coterie.data.columns import ITEM, RATING, TIMESTAMP, USER
from coterie.errors import DataError

BLOCK_BYTES = 32 << 20


def netflix_ratings(files: Sequence[Path]) -> pl.DataFrame:
    """Ratings of ``combined_data_*.txt`` or ``mv_*.txt``, in 16 bytes per row.

    Parameters
    ----------
    files
        In any order; each begins with a line ``movie:``, followed by ``user,rating,date`` lines.

    Returns
    -------
    polars.DataFrame
        ``user_id`` Int32, ``item_id`` Int32, ``rating`` Float32, ``timestamp`` Date.

    Raises
    ------
    DataError
        A line is neither, or ratings come before the first movie; the message names the line.
    """
    movie: int | None = None
    parts: list[pl.DataFrame] = []
    for label, lines_before, block in _blocks(sorted(files)):
        part = _parse(block, movie, label, lines_before)
        parts.append(part.drop_nulls(USER))
        movie = part[ITEM][-1]
    return pl.concat(parts) if parts else pl.DataFrame()


def netflix_titles(path: Path) -> pl.DataFrame:
    """``movie_titles``: ``item_id``, ``title`` (it may hold commas), ``release_year`` or null."""
    text = path.read_bytes().decode("latin-1")
    rows = [line.split(",", 2) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 3:
            raise DataError(f"{path.name}, line {number}: expected id,year,title, got {row}.")
    return pl.DataFrame(
        {
            ITEM: [row[0] for row in rows],
            "title": [row[2] for row in rows],
            "release_year": pl.Series([row[1] for row in rows]).cast(pl.Int32, strict=False),
        }
    )


def _blocks(files: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    """Whole lines of the files in blocks of about 32 MiB: first file, lines before, bytes.

    Small files (one per movie) share a block; their lines are counted together.
    """
    held: list[bytes] = []
    size, label = 0, ""
    for path in files:
        lines_before = 0
        with path.open("rb") as file:
            first = file.readline()
            if not first.rstrip().endswith(b":"):
                raise DataError(f"{path.name}, line 1: expected 'movie:', got {first[:40]!r}.")
            file.seek(0)
            while block := file.read(BLOCK_BYTES):
                block += file.readline()
                whole = block if block.endswith(b"\n") else block + b"\n"
                if len(block) < BLOCK_BYTES and not lines_before:
                    label = label or f"{path.name} and the files after it"
                    held.append(whole)
                    size += len(whole)
                else:
                    yield path.name, lines_before, whole
                    lines_before += whole.count(b"\n")
        if size >= BLOCK_BYTES:
            yield label, 0, b"".join(held)
            held, size, label = [], 0, ""
    if held:
        yield label, 0, b"".join(held)


def _parse(block: bytes, movie: int | None, label: str, lines_before: int) -> pl.DataFrame:
    """One row per line; ``user_id`` is null on the lines that name a movie."""
    raw = pl.read_csv(
        block,
        has_header=False,
        schema=dict.fromkeys(("first", "score", "date"), pl.String),
        missing_columns="insert",  # the first line names a movie and has one field
        quote_char=None,
    )
    names_movie = (pl.col("first").str.ends_with(":") & pl.col("score").is_null()).fill_null(False)
    number = pl.col("first").str.strip_suffix(":").cast(pl.Int32, strict=False)
    frame = raw.select(
        pl.when(~names_movie).then(number).alias(USER),
        pl.when(names_movie)
        .then(number)
        .forward_fill()
        .fill_null(pl.lit(movie, pl.Int32))
        .alias(ITEM),
        pl.col("score").cast(pl.Float32, strict=False).alias(RATING),
        pl.col("date").str.to_date("%Y-%m-%d", strict=False).alias(TIMESTAMP),
    )
    is_rating = pl.all_horizontal(pl.col(ITEM, USER, RATING, TIMESTAMP).is_not_null())
    right = (
        frame.select(is_rating).to_series()
        | raw.select(
            (names_movie & number.is_not_null()) | pl.all_horizontal(pl.all().is_null())
        ).to_series()
    )
    if not right.all():
        row = int((~right).arg_max() or 0)
        got = ",".join(value for value in raw.row(row) if value is not None)
        raise DataError(
            f"{label}, line {lines_before + row + 1}: expected 'movie:', or 'user,rating,date' "
            f"under a movie, got {got!r}."
        )
    return frame
