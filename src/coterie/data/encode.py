"""A column of external ids → dense codes and the distinct ids, sorted; never a silent merge.

Text is dictionary-encoded while it streams, so that a row costs four bytes, and every question
about types is asked of the distinct ids only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import numpy as np
import polars as pl

from coterie.errors import DataError

IdType = Literal["auto", "integer", "string"]
MAX_IDS = 2**31 - 1
# A direct table is used where the range of integer ids is at most this many times their number.
TABLE_FACTOR = 4
CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Codes:
    """A column of ids as codes.

    Parameters
    ----------
    codes
        int32 ``[n]``, positions in ``ids``.
    ids
        The distinct external ids, sorted; dtype Int64, UInt64 or String.
    """

    codes: np.ndarray
    ids: pl.Series


def id_expression(column: str, dtype: pl.DataType) -> pl.Expr:
    """How ids of a type are read in a stream: integers and floats as they are, text as codes.

    Raises
    ------
    DataError
        The column's type cannot be an identifier.
    """
    expression = pl.col(column)
    if dtype.is_integer() or dtype.is_float() or dtype == pl.Null:
        big = dtype in (pl.Int128, pl.UInt128)
        return expression.cast(pl.String).cast(_fresh()) if big else expression
    if dtype == pl.Binary:
        expression = _uuid_text(expression)
    elif dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise DataError(f"Column {column!r} holds {dtype}; ids must be integers, strings or UUIDs.")
    return expression.cast(pl.String).cast(_fresh())


def encode(series: pl.Series, *, id_type: IdType = "auto") -> Codes:
    """Codes of a collected id column (see :func:`id_expression`); it must hold no nulls.

    Parameters
    ----------
    series
        Integers, whole floats, or categories of text.
    id_type
        ``auto``: text that spells integers in the usual way becomes integers, other text stays;
        ``integer`` and ``string`` force one.

    Raises
    ------
    DataError
        Two ids clash after casting, or an id is not of the type asked for.
    """
    if isinstance(series.dtype, pl.Categorical):
        return _encode_text(series, id_type)
    if series.dtype.is_float():
        series = _whole(series)
    coded = _encode_integers(series)
    if id_type == "string":
        return _sorted(coded.ids.cast(pl.String), coded.codes)
    return coded


def resolve_text(texts: pl.Series, *, id_type: IdType, name: str) -> pl.Series:
    """Distinct texts as integers or as they are; position by position.

    Raises
    ------
    DataError
        Two texts read as the same integer (``"01"`` and ``"1"``), or, where integers are asked
        for, one is not an integer.
    """
    if id_type == "string":
        return texts
    for dtype in (pl.Int64, pl.UInt64):
        numbers = texts.cast(dtype, strict=False)
        if numbers.null_count() == 0:
            _refuse_clash(texts, numbers, name)
            canonical = bool((numbers.cast(pl.String) == texts).all())
            return numbers if canonical or id_type == "integer" else texts
    if id_type == "integer":
        wrong = texts.filter(texts.cast(pl.Int64, strict=False).is_null())[0]
        raise DataError(f"Column {name!r}: ids must be integers, got {wrong!r}.")
    return texts


def ids_from_objects(values: Sequence[Any], name: str) -> pl.Series:
    """Python objects (integers, strings, UUIDs, None) as one integer or text series.

    Raises
    ------
    DataError
        An object is none of these, or an integer and a string become the same text.
    """
    kinds = Counter(type(value) for value in values)
    kinds.pop(type(None), None)
    whole = (int, np.integer)
    if kinds and all(issubclass(kind, whole) and kind is not bool for kind in kinds):
        try:
            return pl.Series(name, [None if v is None else int(v) for v in values])
        except (OverflowError, TypeError, pl.exceptions.PolarsError):
            return pl.Series(name, [None if v is None else str(v) for v in values])
    allowed = (*whole, str, UUID)
    wrong = [kind for kind in kinds if not issubclass(kind, allowed) or kind is bool]
    if wrong:
        row = next(i for i, value in enumerate(values) if type(value) is wrong[0])
        raise DataError(
            f"Column {name!r}, row {row + 1}: ids must be integers, strings or UUIDs, "
            f"got {values[row]!r} of type {wrong[0].__name__}."
        )
    if len(kinds) > 1:
        first: dict[str, Any] = {}
        for value in values:
            if value is not None and type(first.setdefault(str(value), value)) is not type(value):
                other = first[str(value)]
                raise DataError(
                    f"Column {name!r}: {other!r} and {value!r} are different ids that become the "
                    "same after casting to text; give all ids one type."
                )
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def usual_bytes(integers: np.ndarray) -> int:
    """Bytes of all integers together, int64 ``[n]``, each spelled without sign or zeros ahead.

    Any other spelling of an integer is longer, so a column of text holds none if its bytes are as
    many as these.
    """
    total = 0
    for start in range(0, len(integers), CHUNK):
        part = integers[start : start + CHUNK]
        total += len(part) + int(np.count_nonzero(part < 0))
        for size in (part, -part):
            power, highest = 10, int(size.max())
            while power <= highest:
                total += int(np.count_nonzero(size >= power))
                power *= 10
    return total


def _fresh() -> pl.Categorical:
    return pl.Categorical(pl.Categories.random())


def _uuid_text(raw: pl.Expr) -> pl.Expr:
    """16 bytes → the canonical text of the UUID; bytes of another length → the hexadecimal text."""
    text = raw.bin.encode("hex")
    parts = [text.str.slice(start, size) for start, size in ((0, 8), (8, 4), (12, 4), (16, 4))]
    uuid = pl.concat_str([*parts, text.str.slice(20)], separator="-")
    return pl.when(raw.bin.size() == 16).then(uuid).otherwise(text)


def _encode_text(series: pl.Series, id_type: IdType) -> Codes:
    distinct = series.unique()
    place = distinct.to_physical().to_numpy()
    ids = resolve_text(distinct.cast(pl.String), id_type=id_type, name=series.name)
    _refuse_too_many(len(ids), series.name)
    table = np.zeros(int(place.max()) + 1 if len(place) else 0, dtype=np.int32)
    table[place] = np.arange(len(place), dtype=np.int32)
    codes = table[series.to_physical().to_numpy()]
    return _sorted(ids, codes)


def _sorted(ids: pl.Series, codes: np.ndarray) -> Codes:
    order = ids.arg_sort()
    rank = np.empty(len(ids), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(ids), dtype=np.int32)
    return Codes(rank[codes], ids.gather(order))


def _encode_integers(series: pl.Series) -> Codes:
    if series.dtype != pl.UInt64:
        series = series.cast(pl.Int64)
    values = series.to_numpy()
    pieces = range(0, len(values), CHUNK)  # in pieces: no second copy of 8 bytes per row
    codes = np.empty(len(values), dtype=np.int32)
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, -1)
    if high - low < TABLE_FACTOR * len(values) + CHUNK:
        table = np.zeros(high - low + 1, dtype=np.int32)
        for start in pieces:
            table[values[start : start + CHUNK] - low] = 1
        present = np.flatnonzero(table)
        table[present] = np.arange(len(present), dtype=np.int32)
        for start in pieces:
            codes[start : start + CHUNK] = table[values[start : start + CHUNK] - low]
        ids = pl.Series(series.name, present.astype(values.dtype) + low, dtype=series.dtype)
    else:
        ids = series.unique().sort()
        distinct = ids.to_numpy()
        for start in pieces:
            codes[start : start + CHUNK] = np.searchsorted(distinct, values[start : start + CHUNK])
    _refuse_too_many(len(ids), series.name)
    return Codes(codes, ids)


def _whole(series: pl.Series) -> pl.Series:
    """Floats that are whole numbers below 2^53 (as pandas writes ids beside gaps) → Int64."""
    wrong = (~series.is_finite()) | (series != series.floor()) | (series.abs() > 2**53)
    row = wrong.arg_max()
    if row is not None and wrong[row]:
        raise DataError(
            f"Column {series.name!r}, row {row + 1}: ids must be whole numbers, "
            f"got {series[row]!r}."
        )
    return series.cast(pl.Int64)


def _refuse_clash(texts: pl.Series, numbers: pl.Series, name: str) -> None:
    if numbers.n_unique() == len(numbers):
        return
    number = numbers.filter(numbers.is_duplicated()).sort()[0]
    clashing = ", ".join(repr(text) for text in texts.filter(numbers == number).sort()[:4])
    raise DataError(
        f"Column {name!r}: {clashing} are different ids that clash, because all of them read as "
        f"the integer {number}. Make them equal in the data, or keep them apart as text "
        "(id_type='string')."
    )


def _refuse_too_many(count: int, name: str) -> None:
    if count > MAX_IDS:
        raise DataError(f"Column {name!r} has {count} distinct ids; at most {MAX_IDS} can be held.")
