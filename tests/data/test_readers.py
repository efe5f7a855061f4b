"""Every format gives the same interactions; every wrong input is a DataError that says where."""

import gzip
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.readers import read_interactions, read_item_table
from coterie.errors import DataError

ROWS = [
    # user, item, rating, timestamp
    (30, 7, 4.0, 1_000_000_003),
    (4, 5, 3.5, 1_000_000_001),
    (30, 5, 5.0, 1_000_000_002),
    (4, 100, 1.0, 1_000_000_004),
    (12, 7, 2.0, 1_000_000_005),
]
COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
FRAME = pl.DataFrame(ROWS, schema=COLUMNS, orient="row")
TEXT = FRAME.write_csv()
LINES = [",".join(map(str, row)) for row in ROWS]


def as_rows(data: Interactions) -> list[tuple[object, ...]]:
    data.check()
    return sorted(data.to_frame().rows())


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def zstd(text: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


SOURCES = {
    "csv": lambda d: write(d, "log.csv", TEXT),
    "csv with a byte order mark": lambda d: write(d, "log.csv", b"\xef\xbb\xbf" + TEXT.encode()),
    "csv with Windows lines": lambda d: write(d, "log.csv", TEXT.replace("\n", "\r\n")),
    "csv with blank lines": lambda d: write(d, "log.csv", TEXT.replace("\n4,", "\n\n4,") + "\n\n"),
    "csv without header": lambda d: write(d, "log.csv", "\n".join(LINES)),
    "csv with quotes": lambda d: write(
        d, "log.csv", "user_id,title,item_id,rating,timestamp\n"
        + "\n".join(f'{u},"a, b",{i},{r},{t}' for u, i, r, t in ROWS),
    ),
    "csv.gz": lambda d: write(d, "log.csv.gz", gzip.compress(TEXT.encode())),
    "csv.zst": lambda d: write(d, "log.csv.zst", zstd(TEXT)),
    "tsv": lambda d: write(d, "log.tsv", TEXT.replace(",", "\t")),
    "semicolons": lambda d: write(d, "log.csv", TEXT.replace(",", ";")),
    "double colons": lambda d: write(d, "ratings.dat", "\n".join(LINES).replace(",", "::")),
    "double colons, header": lambda d: write(d, "ratings.dat", TEXT.replace(",", "::")),
    "spaces": lambda d: write(d, "u.data", "\n".join(LINES).replace(",", " ")),
    "RecBole": lambda d: write(
        d, "log.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "\n".join(f"{u}\t{i}\t{r}\t{float(t)}" for u, i, r, t in ROWS),
    ),
    "parquet": lambda d: FRAME.write_parquet(d / "log.parquet") or d / "log.parquet",
    "arrow": lambda d: FRAME.write_ipc(d / "log.arrow") or d / "log.arrow",
    "feather, compressed": lambda d: FRAME.write_ipc(d / "log.feather", compression="zstd")
    or d / "log.feather",
    "arrow stream": lambda d: FRAME.write_ipc_stream(d / "log.arrow") or d / "log.arrow",
    "polars": lambda d: FRAME,
    "polars lazy": lambda d: FRAME.lazy(),
    "pandas": lambda d: FRAME.to_pandas(),
    "pandas with object ids": lambda d: FRAME.to_pandas().astype({"user_id": object}),
    "pandas with float ids": lambda d: FRAME.to_pandas().astype({"item_id": float}),
    "pyarrow": lambda d: FRAME.to_arrow(),
    "other names": lambda d: FRAME.rename(
        {"user_id": "userId", "item_id": "movieId", "timestamp": "ts"}
    ),
    "datetimes": lambda d: FRAME.with_columns(pl.from_epoch("timestamp")),
    "datetimes as text": lambda d: write(
        d, "log.csv", FRAME.with_columns(pl.from_epoch("timestamp")).write_csv(),
    ),
    "ISO datetimes as text": lambda d: write(
        d, "log.csv", FRAME.with_columns(
            pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        ).write_csv(),
    ),
    "reversed": lambda d: FRAME.reverse(),
    "prepared folder": lambda d: read_interactions(FRAME).save(d / "prepared"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_gives_the_same_interactions(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"  # brackets are no pattern
    folder.mkdir()
    data = read_interactions(SOURCES[name](folder))
    assert as_rows(data) == sorted(ROWS)
    assert data.user_ids.ids.to_list() == [4, 12, 30]
    assert data.item_ids.ids.to_list() == [5, 7, 100]
    assert data.indptr.dtype == np.int64
    assert data.indices.dtype == np.int32
    assert data.values is not None
    assert data.values.dtype == np.float32
    assert data.timestamps is not None
    assert data.timestamps.dtype == np.int64


def test_a_folder_of_parquet_parts_is_one_log(tmp_path: Path) -> None:
    (tmp_path / "log" / "day=2").mkdir(parents=True)
    FRAME[:2].write_parquet(tmp_path / "log" / "part-0.parquet")
    FRAME[2:].write_parquet(tmp_path / "log" / "day=2" / "part-1.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    assert as_rows(read_interactions(tmp_path / "log")) == sorted(ROWS)


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix, sp.coo_array, sp.csc_array])
def test_sparse_matrices_keep_row_and_column_numbers_as_ids(kind: type, tmp_path: Path) -> None:
    matrix = kind(np.array([[0, 2.0, 0], [0, 0, 0], [1.0, 0, 3.0]]))
    expected = [(0, 1, 2.0), (2, 0, 1.0), (2, 2, 3.0)]
    assert as_rows(read_interactions(matrix)) == expected
    sp.save_npz(tmp_path / "log.npz", matrix)
    assert as_rows(read_interactions(tmp_path / "log.npz")) == expected


def test_string_and_uuid_ids_are_kept_as_text_and_sorted() -> None:
    users = [uuid.UUID(int=n) for n in (3, 1, 2)]
    frame = pd.DataFrame({"user": users, "item": ["b", "é", "a"]})
    data = read_interactions(frame)
    assert data.user_ids.ids.to_list() == sorted(map(str, users))
    assert data.item_ids.ids.to_list() == ["a", "b", "é"]
    assert as_rows(data) == sorted(zip(map(str, users), ["b", "é", "a"], strict=True))


def test_uuids_in_parquet_are_read_as_canonical_text(tmp_path: Path) -> None:
    one = uuid.uuid4()
    table = pa.table({"user_id": pa.array([one.bytes], pa.binary(16)), "item_id": [1]})
    assert read_interactions(table).user_ids.ids.to_list() == [str(one)]


def test_ids_that_spell_integers_become_integers_only_if_none_loses_its_spelling() -> None:
    canonical = read_interactions(pl.DataFrame({"user": ["1", "2"], "item": ["a", "b"]}))
    assert canonical.user_ids.ids.to_list() == [1, 2]
    padded = read_interactions(pl.DataFrame({"user": ["01", "2"], "item": ["a", "b"]}))
    assert padded.user_ids.ids.to_list() == ["01", "2"]
    big = read_interactions(pl.DataFrame({"user": [str(2**64 - 1), "0"], "item": ["a", "b"]}))
    assert big.user_ids.ids.to_list() == [0, 2**64 - 1]


def test_ids_that_clash_after_casting_are_refused_not_merged(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", "user_id,item_id\n01,5\n1,5\n")
    with pytest.raises(DataError, match=r"'01', '1' are different ids.*integer 1"):
        read_interactions(path)
    kept = read_interactions(path, options=PrepareOptions(id_type="string"))
    assert kept.user_ids.ids.to_list() == ["01", "1"]
    mixed = pd.DataFrame({"user_id": pd.Series([1, "1", "x"], dtype=object), "item_id": [1, 2, 3]})
    with pytest.raises(DataError, match=r"1 and '1' are different ids"):
        read_interactions(mixed)


def test_a_third_column_of_large_whole_numbers_is_a_time(tmp_path: Path) -> None:
    data = read_interactions(write(tmp_path, "log.csv", "1,2,1000000000\n1,3,1000000001\n"))
    assert data.values is None
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [10**9, 10**9 + 1]


def test_named_columns_win_and_columns_can_be_ignored(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1], "b": [2], "rating": ["?"], "time": ["long ago"]})
    options = PrepareOptions(user="b", item="a", rating="", timestamp="")
    assert as_rows(read_interactions(frame, options=options)) == [(2, 1)]


def test_an_item_table_follows_the_items_that_remain(tmp_path: Path) -> None:
    items = pl.DataFrame({"movieId": ["100", "5", "9"], "title": ["hundred", "five", "nine"]})
    items.write_csv(tmp_path / "items.csv")
    data = read_interactions(FRAME, items=tmp_path / "items.csv")
    assert data.items is not None
    assert data.items.rows() == [(5, "five"), (100, "hundred")]
    with pytest.raises(DataError, match="stands more than once"):
        read_item_table(pl.concat([items, items]))


WRONG = {
    "an empty file": ("", "is empty"),
    "only blank lines": ("\n\n", "no rows"),
    "only a header": ("user_id,item_id\n", "no rows"),
    "one column": ("user_id\n1\n2\n", "no separator"),
    "a non-numeric rating": ("user_id,item_id,rating\n1,2,3\n1,3,good\n", r"row 2.*'good'"),
    "a missing rating": ("user_id,item_id,rating\n1,2,\n1,3,4\n", "row 1.*rating"),
    "an infinite rating": ("user_id,item_id,rating\n1,2,3\n1,3,inf\n", "row 2.*'inf'"),
    "a negative time": ("user_id,item_id,timestamp\n1,2,3\n1,3,-4\n", "row 2.*'-4'"),
    "a time that is NaN": ("user_id,item_id,timestamp\n1,2,3\n1,3,NaN\n", "row 2.*'NaN'"),
    "a time that is no time": ("user_id,item_id,timestamp\n1,2,soon\n", "row 1.*'soon'"),
    "a missing user": ("user_id,item_id\n1,2\n,3\n", "row 2: column 'user_id' has no user_id"),
    "an empty item": ('user_id,item_id\n1,2\n3,""\n', "row 2: column 'item_id' has an empty"),
    "a short row": ("user_id,item_id\n1,2\n3\n", "row 2: column 'item_id' has no item_id"),
    "a long row": ("user_id,item_id\n1,2\n3,4,5\n", "could not be read.*more fields"),
    "unknown names": ("who,what\n1,2\n3,4\n", "No column looks like user_id.*'who', 'what'"),
    "bytes that are not UTF-8": (b"user_id,item_id\n1,\xff\n", "line 2, is not UTF-8"),
    "bytes that are not text": (b"\x01\x00\x02\x03", "not text"),
    "a cut Parquet file": (b"PAR1\x00\x00", "could not be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_errors_that_say_where(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        read_interactions(write(tmp_path, "log.txt", content))


WRONG_NUMBERS = {
    "a time that is NaN": ("timestamp", [3.0, float("nan"), 2.0], "nan"),
    "a negative whole time": ("timestamp", [3, -4, 2], "-4"),
    "a missing time": ("timestamp", [3, None, 2], "None"),
    "a rating that is NaN": ("rating", [3.0, float("nan"), 2.0], "nan"),
    "an infinite rating": ("rating", [3.0, float("inf"), 2.0], "inf"),
}


@pytest.mark.parametrize("source", ["polars", "lazy", "parquet"])
@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_wrong_numbers_in_typed_columns_are_errors_that_say_where(
    name: str, source: str, tmp_path: Path
) -> None:
    column, values, got = WRONG_NUMBERS[name]
    frame = pl.DataFrame({"user_id": [1, 2, 3], "item_id": [5, 5, 5], column: values})
    frame.write_parquet(tmp_path / "log.parquet")
    log = {"polars": frame, "lazy": frame.lazy(), "parquet": tmp_path / "log.parquet"}[source]
    with pytest.raises(DataError, match=f"row 2: expected .* in column '{column}', got {got}"):
        read_interactions(log)


@pytest.mark.parametrize("blank", ["", "   ", "\t"])
@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("rating", "4", "good"),
        ("rating", "4", ""),
        ("timestamp", "7", "soon"),
        ("timestamp", "7", "-1"),
    ],
)
def test_blank_lines_count_as_rows_in_messages(
    column: str, good: str, bad: str, blank: str, tmp_path: Path
) -> None:
    lines = [f"user_id,item_id,{column}", f"1,2,{good}", blank, f"1,3,{good}", blank, f"5,6,{bad}"]
    path = write(tmp_path, "log.csv", "\n".join(lines) + "\n")
    shown = repr(bad or None)
    with pytest.raises(DataError, match=f"row 5: .*column '{column}', got {shown}"):
        read_interactions(path)
    lines[-1] = f"5,6,{good}"
    data = read_interactions(write(tmp_path, "log.csv", "\n".join(lines) + "\n"))
    assert data.nnz == 3
    assert data.user_ids.ids.to_list() == [1, 5]
    lines[-1] = ",6," + good
    with pytest.raises(DataError, match="row 5: column 'user_id' has no user_id"):
        read_interactions(write(tmp_path, "log.csv", "\n".join(lines) + "\n"))


@pytest.mark.parametrize("shape", [(2, 2**41), (2**41, 2), (2**31, 2)])
def test_matrices_of_an_absurd_shape_are_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    matrix = sp.coo_array((np.ones(1), (np.array([1]), np.array([1]))), shape=shape)
    with pytest.raises(DataError, match=f"{shape[0]} x {shape[1]}; at most 2147483647"):
        read_interactions(matrix)
    sp.save_npz(tmp_path / "m.npz", matrix)
    with pytest.raises(DataError, match="at most 2147483647"):
        read_interactions(tmp_path / "m.npz")


def test_a_vast_matrix_costs_no_more_than_what_it_holds() -> None:
    last = 2**31 - 2
    matrix = sp.coo_array((np.ones(2), ([0, last], [last, 3])), shape=(last + 1, last + 1))
    data = read_interactions(matrix)
    assert data.to_frame().rows() == [(0, last, 1.0), (last, 3, 1.0)]


def _fixed(kind: str, folder: Path) -> object:
    """A prepared folder or a matrix, as an object or in a file: their columns have no names."""
    if kind == "prepared":
        return read_interactions(FRAME).save(folder / "set")
    matrix = sp.csr_array(np.array([[0, 2.0], [3.0, 0]]))
    if kind == "npz":
        sp.save_npz(folder / "m.npz", matrix)
        return folder / "m.npz"
    return matrix


@pytest.mark.parametrize("kind", ["prepared", "matrix", "npz"])
def test_column_options_hold_for_sources_without_names(kind: str, tmp_path: Path) -> None:
    source = _fixed(kind, tmp_path)
    assert read_interactions(source).values is not None
    bare = read_interactions(source, options=PrepareOptions(rating="", timestamp=""))
    assert bare.values is None
    assert bare.timestamps is None
    for option in ("user", "item", "rating", "timestamp"):
        with pytest.raises(DataError, match=f"{option}='nonsense' names a column"):
            read_interactions(source, options=PrepareOptions(**{option: "nonsense"}))
    with pytest.raises(DataError, match="needs ratings"):
        read_interactions(source, options=PrepareOptions(rating="", positive_threshold=1.0))


def test_item_table_ids_that_clash_after_casting_are_refused() -> None:
    table = pl.DataFrame({"item_id": ["01", "1", "2"], "title": ["a", "b", "c"]})
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]})
    with pytest.raises(DataError, match="ids '01', '1' clash: all of them read as the item 1"):
        read_interactions(frame, items=table)
    text = read_interactions(frame, items=table, options=PrepareOptions(id_type="string"))
    assert text.items is not None
    assert text.items["title"].to_list() == ["b", "c"]


def test_a_wrong_column_name_lists_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", TEXT)
    with pytest.raises(DataError, match=r"no column 'buyer'.*'user_id', 'item_id', 'rating'"):
        read_interactions(path, options=PrepareOptions(user="buyer"))
    with pytest.raises(DataError, match="cannot be both"):
        read_interactions(path, options=PrepareOptions(user="item_id"))


def test_missing_files_are_errors_that_list_what_is_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "rating.csv", TEXT)
    with pytest.raises(DataError, match=r"does not exist; .* holds: rating\.csv"):
        read_interactions(tmp_path / "ratings.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^nope\.csv does not exist; this folder holds: rating"):
        read_interactions("nope.csv")
    with pytest.raises(DataError, match="there is no folder"):
        read_interactions(tmp_path / "no" / "ratings.csv")
    with pytest.raises(DataError, match="no folder of Parquet parts"):
        read_interactions(tmp_path)
    with pytest.raises(DataError, match="Expected a path, a frame or a sparse matrix, got int"):
        read_interactions(3)


def _truncated(folder: Path, name: str) -> Path:
    many = pl.DataFrame({"user_id": range(30_000), "item_id": range(30_000)})
    many = many.with_columns(pl.col("item_id").hash(seed=1) % 1000)
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(many.write_csv().encode()))
    elif name.endswith(".zst"):
        path.write_bytes(zstd(many.write_csv()))
    elif name.endswith(".npz"):
        sp.save_npz(path, sp.random_array((500, 500), density=0.1, format="csr", rng=1))
    elif name.endswith(".parquet"):
        many.write_parquet(path)
    else:
        many.write_ipc(path, compression="zstd")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.npz", "a.parquet", "a.arrow"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name):
        read_interactions(_truncated(tmp_path, name))


def test_missing_ids_in_frames_are_refused_with_their_row() -> None:
    frame = pd.DataFrame({"user_id": [1, None, 3], "item_id": ["a", "b", "c"]})
    with pytest.raises(DataError, match="row 2: column 'user_id'"):
        read_interactions(frame)
    with pytest.raises(DataError, match=r"row 1.*whole numbers, got 1\.5"):
        read_interactions(pl.DataFrame({"user_id": [1.5], "item_id": [1]}))
    with pytest.raises(DataError, match="holds Boolean"):
        read_interactions(pl.DataFrame({"user_id": [True], "item_id": [1]}))


def test_uuids_of_every_kind_become_the_same_text(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=5), uuid.UUID(int=3)]
    table = pa.table({"user": pa.array([one.bytes for one in ids], pa.binary(16)), "item": [1, 2]})
    polars = pl.DataFrame(
        {"user": ids, "item": [1, 2]}, schema={"user": pl.Object, "item": pl.Int64}
    )
    for source in (table, polars, pd.DataFrame({"user": ids, "item": [1, 2]})):
        assert read_interactions(source).user_ids.ids.to_list() == sorted(map(str, ids))


def test_other_columns_of_a_pandas_frame_are_not_looked_at() -> None:
    frame = FRAME.to_pandas()
    frame["anything"] = [object()] * len(frame)
    assert as_rows(read_interactions(frame)) == sorted(ROWS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<html><body>Not found</body></html>\n", "HTML"),
        ('\n{"user_id": 1, "item_id": 2}\n', "JSON"),
    ],
)
def test_markup_is_no_table(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=f"log.csv looks like {what}.*error page"):
        read_interactions(write(tmp_path, "log.csv", text))


def test_times_in_another_unit_are_refused_until_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", "user_id,item_id,timestamp\n1,2,5\n1,3,1700000000000\n")
    with pytest.raises(DataError, match=r"row 2: .*1700000000000.*"):
        read_interactions(path)
    data = read_interactions(path, options=PrepareOptions(timestamp_unit="ms"))
    assert data.to_frame()["timestamp"].to_list() == [0, 1_700_000_000]
