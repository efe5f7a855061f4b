"""The catalogue is consistent, and its readers read what its publishers publish."""

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from coterie.data import datasets
from coterie.data.datasets import DATASETS, dataset
from coterie.data.prepare import PrepareOptions
from coterie.errors import ConfigError, DataError


@pytest.mark.parametrize("name", DATASETS)
def test_entries_are_consistent(name: str) -> None:
    known = dataset(name)
    assert known.name == name
    assert known.terms
    for file in known.files:
        assert file.address.startswith(("https://", "http://millionsongdataset.com/"))
        assert file.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}", file.checksum)
    unknown = any(file.checksum is None for file in known.files)
    assert bool(known.checksum_note) == unknown
    assert known.is_pair == (known.protocol.held_out_users == 0)


def test_the_protocols_are_those_of_the_literature() -> None:
    users = {name: DATASETS[name].protocol.held_out_users for name in ("ml-20m", "netflix", "msd")}
    assert users == {"ml-20m": 10_000, "netflix": 40_000, "msd": 50_000}
    for name in ("ml-20m", "netflix"):
        assert DATASETS[name].options == PrepareOptions(positive_threshold=4, min_user_items=5)
    assert DATASETS["msd"].options == PrepareOptions(min_user_items=20, min_item_users=200)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no data set 'ml-2m'.*ml-20m"):
        dataset("ml-2m")


def test_fetch_and_read_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(address: str, folder: Path, **_: Any) -> Path:
        folder.mkdir(parents=True)
        path = folder / address.rsplit("/", 1)[-1]
        with zipfile.ZipFile(path, "w") as archive:
            rows = "".join(f"1::{item}::{3 + item % 3}::900000000\n" for item in range(1, 20))
            archive.writestr("ml-1m/ratings.dat", rows)
        return path

    monkeypatch.setattr(datasets, "download", fake)
    path = dataset("ml-1m").fetch(tmp_path, show_progress=False)
    assert path == tmp_path / "ml-1m" / "ml-1m.zip"
    data = dataset("ml-1m").read(path)
    assert data.name == "ml-1m"
    assert data.nnz == sum(3 + item % 3 >= 4 for item in range(1, 20))
    with pytest.raises(DataError, match="not published as train and test"):
        dataset("ml-1m").read_pair(path)


def test_fetch_and_read_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(address: str, folder: Path, **_: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / address.rsplit("/", 1)[-1]
        path.write_text("0 1 2\n1 2\n" if path.name == "train.txt" else "0 3\n1 1 3\n")
        return path

    monkeypatch.setattr(datasets, "download", fake)
    folder = dataset("gowalla").fetch(tmp_path)
    pair = dataset("gowalla").read_pair(folder)
    assert (pair.train.nnz, pair.test.nnz) == (3, 3)
    assert pair.train.name == "gowalla-train"
