"""Each raw format, written as its publisher writes it, from a folder, a .zip and a .tar.gz."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.raw import GENRES_100K, open_raw, read_lightgcn
from coterie.data.readers import read_interactions
from coterie.errors import DataError, StorageError

ROWS = [(1, 20, 5.0, 881250949), (1, 3, 3.0, 891717742), (2, 20, 4.0, 878887116)]
DAY = 86_400


def _flags(*genres: str) -> str:
    return "|".join("1" if genre in genres else "0" for genre in GENRES_100K)


def _joined(separator: str, rows: list[tuple[object, ...]]) -> bytes:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


WHOLE = [(u, i, int(r), t) for u, i, r, t in ROWS]
DATES = ["1997-12-04", "1998-04-04", "1997-11-07"]
NETFLIX_COMBINED = {
    "combined_data_1.txt": b"3:\n1,3,1998-04-04\n",
    "combined_data_2.txt": b"20:\n1,5,1997-12-04\n2,4,1997-11-07\n",
    "movie_titles.csv": "3,2003,Am\xe9lie, the film\n20,NULL,Two\n".encode("latin-1"),
}
NETFLIX_MV = {
    "training_set/mv_0000003.txt": b"3:\n1,3,1998-04-04\n",
    "training_set/mv_0000020.txt": b"20:\n1,5,1997-12-04\n2,4,1997-11-07",
    "movie_titles.txt": NETFLIX_COMBINED["movie_titles.csv"],
}
RAW: dict[str, dict[str, bytes]] = {
    "MovieLens 100K": {
        "ml-100k/u.data": _joined("\t", WHOLE),
        "ml-100k/u.item": (
            f"3|Am\xe9lie (2001)|01-Jan-2001||http://x|{_flags('Comedy', 'Romance')}\n"
            f"20|Two|01-Jan-1995||http://x|{_flags()}\n"
        ).encode("latin-1"),
    },
    "MovieLens 1M": {
        "ml-1m/ratings.dat": _joined("::", WHOLE),
        "ml-1m/movies.dat": "3::Am\xe9lie (2001)::Comedy|Romance\n"
        "20::Two::(no genres listed)\n".encode("latin-1"),
    },
    "MovieLens 20M": {
        "ml-20m/ratings.csv": b"userId,movieId,rating,timestamp\n" + _joined(",", ROWS),
        "ml-20m/movies.csv": 'movieId,title,genres\n3,"Amélie (2001)",Comedy|Romance\n'
        '20,"Two, again",(no genres listed)\n'.encode(),
    },
}  # fmt: skip


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        path = folder / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "raw"


def as_zip(files: dict[str, bytes], folder: Path) -> Path:
    with zipfile.ZipFile(folder / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/ratings.csv", b"junk")
        for name, content in files.items():
            archive.writestr(name, content)
    return folder / "raw.zip"


def as_tar(files: dict[str, bytes], folder: Path) -> Path:
    with tarfile.open(folder / "raw.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / "raw.tar.gz"


PACKINGS = [as_folder, as_zip, as_tar]
Packing = Callable[[dict[str, bytes], Path], Path]


def as_rows(data: Interactions) -> list[tuple[object, ...]]:
    data.check()
    return sorted(data.to_frame().rows())


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", RAW)
def test_movielens_with_titles_and_genres(name: str, packing: Packing, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"  # brackets are no pattern
    folder.mkdir()
    data = read_interactions(packing(RAW[name], folder))
    assert as_rows(data) == sorted(ROWS)
    assert data.items is not None
    assert data.items.select("item_id", "genres").rows() == [(3, "Comedy|Romance"), (20, None)]
    assert data.items["title"][0] == "Amélie (2001)"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("files", [NETFLIX_COMBINED, NETFLIX_MV], ids=["combined", "mv"])
def test_netflix(files: dict[str, bytes], packing: Packing, tmp_path: Path) -> None:
    data = read_interactions(packing(files, tmp_path))
    days = [pl.Series([day]).str.to_date().dt.epoch("d")[0] * DAY for day in DATES]
    expected = [(*row[:3], day) for row, day in zip(ROWS, days, strict=True)]
    assert as_rows(data) == sorted(expected)
    assert data.items is not None
    assert data.items.rows() == [(3, "Amélie, the film", 2003), (20, "Two", None)]


def test_netflix_as_published_has_an_archive_within_the_archive(tmp_path: Path) -> None:
    inner = tmp_path / "inner.tar"
    with tarfile.open(inner, "w") as archive:
        for name, content in NETFLIX_MV.items():
            if name.startswith("training_set/"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    files = {"download/training_set.tar": inner.read_bytes(), "download/movie_titles.txt": b"3,1,x"}
    assert read_interactions(as_tar(files, tmp_path)).nnz == 3


def test_netflix_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that ends within a movie hands the movie on."""
    monkeypatch.setattr("coterie.data.netflix.BLOCK_BYTES", 40)
    users = range(100, 150)
    lines = [f"{movie}:\n" + "".join(f"{u},3,2005-01-01\n" for u in users) for movie in (7, 8)]
    folder = as_folder({"combined_data_1.txt": "".join(lines).encode()}, tmp_path)
    expected = sorted((u, movie) for movie in (7, 8) for u in users)
    assert sorted(read_interactions(folder).to_frame()["user_id", "item_id"].rows()) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1,3,2005-01-01\n", "line 1: expected 'movie:'"),
        (b"7:\n1,3,2005-01-01\n1,good,2005-01-01\n", "line 3.*got '1,good,2005-01-01'"),
        (b"7:\n1,3,2005-13-01\n", "line 2"),
        (b"7:\nx:\n1,3,2005-01-01\n", "line 2.*'x:'"),
        (b"7:\n1,3\n", "line 2"),
        (b"7:\n1,3,2005-01-01,9\n", "could not be read"),
    ],
)
def test_netflix_lines_that_are_wrong_are_named(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(as_folder({"combined_data_1.txt": content}, tmp_path))


@pytest.mark.parametrize("packing", PACKINGS)
def test_taste_profile(packing: Packing, tmp_path: Path) -> None:
    files = {
        "train_triplets.txt": b"b80344d063b5ccb3\tSOAKIMP12A8C130995\t1\n"
        b"b80344d063b5ccb3\tSOAPDEY12A81C210A9\t2\n85c1f87fea955d09\tSOAKIMP12A8C130995\t7\n",
        "unique_tracks.txt": b"TR1<SEP>SOAKIMP12A8C130995<SEP>Jack Johnson<SEP>The Cove\n",
    }
    data = read_interactions(packing(files, tmp_path), options=PrepareOptions(min_item_users=2))
    assert as_rows(data) == [
        ("85c1f87fea955d09", "SOAKIMP12A8C130995", 7.0),
        ("b80344d063b5ccb3", "SOAKIMP12A8C130995", 1.0),
    ]
    assert data.items is not None
    assert data.items.rows() == [("SOAKIMP12A8C130995", "The Cove", "Jack Johnson")]


@pytest.mark.parametrize("packing", PACKINGS)
def test_lightgcn_text_is_a_pair_or_its_union(packing: Packing, tmp_path: Path) -> None:
    path = packing(
        {"gowalla/train.txt": b"0 5 3 8\n1 5\n2 \n", "gowalla/test.txt": b"0 9\n1 3 8 \n3\n"},
        tmp_path,
    )
    pair = read_lightgcn(path)
    assert as_rows(pair.train) == [(0, 3), (0, 5), (0, 8), (1, 5)]
    assert as_rows(pair.test) == [(0, 9), (1, 3), (1, 8)]
    assert as_rows(read_interactions(path)) == sorted(as_rows(pair.train) + as_rows(pair.test))


def test_one_lightgcn_file_is_recognised_by_its_ragged_lines(tmp_path: Path) -> None:
    path = as_folder({"train.txt": b"0 5 3 8\n1 5\n"}, tmp_path) / "train.txt"
    assert as_rows(read_interactions(path)) == [(0, 3), (0, 5), (0, 8), (1, 5)]


def test_a_pair_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no test\.txt"):
        read_lightgcn(as_folder({"train.txt": b"0 5\n"}, tmp_path))


@pytest.mark.parametrize("packing", [as_zip, as_tar])
@pytest.mark.parametrize("name", ["../ratings.csv", "/ratings.csv", "a/../../ratings.csv"])
def test_members_that_leave_the_archive_are_refused(
    name: str, packing: Packing, tmp_path: Path
) -> None:
    path = packing({name: b"userId,movieId,rating,timestamp\n1,2,3,4\n"}, tmp_path)
    before = set(tmp_path.parent.rglob("ratings.csv"))
    with pytest.raises(DataError, match="refused as unsafe"):
        read_interactions(path)
    assert set(tmp_path.parent.rglob("ratings.csv")) == before


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        link = tarfile.TarInfo("ratings.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="no data set that we know"):
        read_interactions(tmp_path / "raw.tar")


@pytest.mark.parametrize("packing", [as_zip, as_tar])
def test_damaged_archives_are_refused(packing: Packing, tmp_path: Path) -> None:
    path = packing(RAW["MovieLens 1M"], tmp_path)
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="raw"):
            read_interactions(path)


def test_an_unknown_archive_names_what_is_known(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"no data set that we know.*Netflix Prize"),
        open_raw(as_zip({"readme.md": b"hi"}, tmp_path)),
    ):
        pass


def test_a_full_disk_while_unpacking_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_zip(RAW["MovieLens 20M"], tmp_path)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coterie.data.archives.shutil.copyfileobj", full)
    with pytest.raises(StorageError, match=r"The disk is full.*TMPDIR"):
        read_interactions(path)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ratings.csv": b"user,film\n1,2\n"}, "expected the columns userId, movieId"),
        ({"ratings.dat": b"1::2::3::4\n", "movies.dat": b"1::x\n"}, "line 1: expected 3 fields"),
        ({"ratings.dat": b"1::2::3::4\n1::3::good::4\n"}, "row 2.*'good'"),
        ({"u.data": b"1\t2\t3\t4\n1\t3\n"}, "row 2"),
    ],
)
def test_wrong_raw_files_are_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(as_folder(files, tmp_path))


def test_columns_of_a_public_data_set_cannot_be_renamed(tmp_path: Path) -> None:
    for name, content in RAW["MovieLens 20M"].items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    folder = tmp_path / "ml-20m"
    with pytest.raises(DataError, match=r"user='nonsense' names a column.*here it is 'userId'"):
        read_interactions(folder, options=PrepareOptions(user="nonsense"))
    data = read_interactions(folder, options=PrepareOptions(user="userId", rating=""))
    assert data.nnz == len(ROWS)
    assert data.values is None
    assert data.timestamps is not None
