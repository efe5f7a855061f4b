"""Whatever the bytes, a reader gives valid interactions or a CoterieError: never a traceback."""

import contextlib
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.data.liang import read_liang_split
from coterie.data.prepare import PrepareOptions
from coterie.data.raw import read_lightgcn
from coterie.data.readers import read_interactions, read_item_table
from coterie.errors import CoterieError

FRAME = pl.DataFrame(
    {
        "user_id": [3, 1, 3, 2, 9],
        "item_id": [5, 5, 7, 8, 5],
        "rating": [1.0, 4.5, 5.0, 3.0, 2.0],
        "timestamp": [10, 20, 30, 40, 1_000_000_000],
    }
)
fuzz = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _zip(sink: io.BytesIO) -> None:
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/ratings.dat", "1::2::5::900000000\n1::3::4::900000001\n")
        archive.writestr("ml-1m/movies.dat", "2::Two::Drama\n3::Three::Comedy\n")


def _tar(sink: io.BytesIO) -> None:
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        content = b"7:\n1,3,2005-01-01\n2,4,2005-01-02\n"
        member = tarfile.TarInfo("combined_data_1.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


CSV = FRAME.write_csv().encode()
VALID = {
    "log.csv": CSV,
    "log.tsv": CSV.replace(b",", b"\t"),
    "log.dat": CSV.split(b"\n", 1)[1].replace(b",", b"::"),
    "log.inter": b"user_id:token\titem_id:token\trating:float\n1\t2\t3.0\n2\t2\t4\n",
    "adjacency.txt": b"0 5 3 8\n1 5\n2 9 8\n",
    "log.csv.gz": gzip.compress(CSV),
    "log.csv.zst": _zstd(CSV),
    "log.parquet": _bytes(FRAME.write_parquet),
    "log.arrow": _bytes(FRAME.write_ipc),
    "stream.arrow": _bytes(FRAME.write_ipc_stream),
    "log.npz": _bytes(lambda sink: sp.save_npz(sink, sp.csr_array(np.eye(4)))),
    "raw.zip": _bytes(_zip),
    "raw.tar.gz": _bytes(_tar),
    "combined_data_1.txt": b"7:\n1,3,2005-01-01\n2,4,2005-01-02\n8:\n1,5,2005-01-01\n",
}


def read_or_refuse(path: Path, options: PrepareOptions | None = None) -> None:
    try:
        data = read_interactions(path, options=options)
    except CoterieError:
        return
    assert data.check().nnz > 0


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes changed, a piece removed, doubled or inserted, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 20)))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"\n", b",", b"::", b'"', b"\r", b"nan", b"-1", b"1e400", b"\t", b" ", b"\x00"]
                ),
                st.just(bytes(data[at:to]) * 2),
            )
        )
        data[at:to] = piece
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.parametrize("name", VALID)
def test_the_unchanged_files_are_valid(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(VALID[name])
    assert read_interactions(tmp_path / name).check().nnz > 0


@pytest.mark.parametrize("name", VALID)
@fuzz
@given(data=st.data())
def test_mutated_files(name: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(mutated(VALID[name])))
    read_or_refuse(path)


@fuzz
@given(name=st.sampled_from(sorted(VALID)), content=st.binary(max_size=200))
def test_random_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    read_or_refuse(tmp_path / name)


@fuzz
@given(
    lines=st.lists(
        st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=5), max_size=6
    ),
    separator=st.sampled_from([",", "\t", "::", ";", "|", " "]),
    options=st.builds(
        PrepareOptions,
        header=st.sampled_from([None, True, False]),
        id_type=st.sampled_from(["auto", "integer", "string"]),
        separator=st.sampled_from([None, ",", "::", "é", "ab", '"', "\n"]),
        positive_threshold=st.sampled_from([None, 4.0]),
    ),
)
def test_random_text(
    lines: list[list[str]], separator: str, options: PrepareOptions, tmp_path: Path
) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes("\n".join(separator.join(line) for line in lines).encode())
    read_or_refuse(path, options)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=3),
    st.binary(max_size=3), st.uuids(), st.datetimes(), st.lists(st.integers(), max_size=2),
)  # fmt: skip


@fuzz
@given(
    columns=st.dictionaries(
        st.sampled_from(["user", "item", "rating", "timestamp", "title", ""]),
        st.lists(scalars, min_size=3, max_size=3),
        max_size=5,
    )
)
def test_random_objects_in_frames(columns: dict[str, list[object]]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns, dtype=object)
    with contextlib.suppress(CoterieError):
        read_interactions(frame).check()


@fuzz
@given(data=st.data())
def test_mutated_folders(tmp_path: Path, data: st.DataObject) -> None:
    liang = {
        "unique_sid.txt": b"50\n7\n",
        "train.csv": b"uid,sid\n0,0\n",
        "validation_tr.csv": b"uid,sid\n2,0\n",
        "validation_te.csv": b"uid,sid\n2,1\n",
        "test_tr.csv": b"uid,sid\n4,0\n",
        "test_te.csv": b"uid,sid\n4,1\n",
        "train.txt": b"0 5 3 8\n1 5\n",
        "test.txt": b"0 9\n",
    }
    changed = data.draw(st.sampled_from(sorted(liang)))
    for name, content in liang.items():
        (tmp_path / name).write_bytes(data.draw(mutated(content)) if name == changed else content)
    for read in (read_liang_split, read_interactions, read_lightgcn):
        with contextlib.suppress(CoterieError):
            read(tmp_path)


RAW_FOLDERS: dict[str, dict[str, bytes]] = {
    "MovieLens 100K": {
        "u.data": b"1\t3\t4\t881250949\n2\t20\t5\t891717742\n",
        "u.item": b"3|Am\xe9lie (2001)|01-Jan-2001||http://x" + b"|1" * 19
        + b"\n20|Two|||" + b"|0" * 19 + b"\n",
    },
    "MovieLens 1M": {
        "ratings.dat": b"1::3::5::900000000\n1::20::4::900000001\n",
        "movies.dat": b"3::Am\xe9lie (2001)::Comedy|Romance\n20::Two::(no genres listed)\n",
    },
    "MovieLens 20M": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,3,4.5,900000000\n2,20,5.0,900000001\n",
        "movies.csv": b'movieId,title,genres\n3,"One, again",Comedy\n20,Two,(no genres listed)\n',
    },
    "Taste Profile": {
        "train_triplets.txt": b"b80344d0\tSOAKIMP12A\t1\n85c1f87f\tSOAPDEY12A\t7\n",
        "unique_tracks.txt": b"TR1<SEP>SOAKIMP12A<SEP>Jack Johnson<SEP>The Cove\n",
    },
    "Netflix": {
        "combined_data_1.txt": b"3:\n1,3,1998-04-04\n2,4,1998-04-05\n",
        "combined_data_2.txt": b"20:\n1,5,1997-12-04\n",
        "movie_titles.csv": b"3,2003,Am\xe9lie, the film\n20,NULL,Two\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_FOLDERS)
def test_the_unchanged_raw_folders_are_valid_and_have_titles(name: str, tmp_path: Path) -> None:
    for file, content in RAW_FOLDERS[name].items():
        (tmp_path / file).write_bytes(content)
    data = read_interactions(tmp_path).check()
    assert data.items is not None
    assert len(data.items)


@pytest.mark.parametrize(
    ("name", "changed"), [(name, file) for name, files in RAW_FOLDERS.items() for file in files]
)
@fuzz
@given(data=st.data())
def test_mutated_raw_folders(name: str, changed: str, tmp_path: Path, data: st.DataObject) -> None:
    for file, content in RAW_FOLDERS[name].items():
        is_changed = file == changed
        (tmp_path / file).write_bytes(data.draw(mutated(content)) if is_changed else content)
    read_or_refuse(tmp_path)


ITEM_TABLES = {
    "items.csv": b"item_id,title,year\n5,Five,1999\n7,Seven,2001\n",
    "items.item": b"item_id:token\ttitle:token_seq\n5\tFive\n7\tSeven\n",
    "items.parquet": _bytes(
        pl.DataFrame({"item_id": [5, 7], "title": ["Five", "Seven"]}).write_parquet
    ),
}


@pytest.mark.parametrize("name", ITEM_TABLES)
@fuzz
@given(data=st.data())
def test_mutated_item_tables(name: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(ITEM_TABLES[name])
    assert len(read_item_table(path)) == 2
    path.write_bytes(data.draw(mutated(ITEM_TABLES[name])))
    with contextlib.suppress(CoterieError):
        assert read_item_table(path)["item_id"].is_unique().all()
    with contextlib.suppress(CoterieError):
        read_interactions(FRAME, items=path).check()
