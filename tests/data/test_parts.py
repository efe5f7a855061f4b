import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut, Split
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import ArtifactError, DataError, StorageError
from full_disk import no_file_larger_than


def invented() -> Interactions:
    config = SyntheticConfig(
        n_users=60, n_items=40, n_communities=4, n_niches=2, mean_history=8, n_pairs=0
    )
    return synthetic(config, 0).interactions


def parts(split: Split) -> list[Interactions]:
    return [
        split.train,
        split.validation.fold_in,
        split.validation.held_out,
        split.test.fold_in,
        split.test.held_out,
    ]


def same(a: Interactions, b: Interactions) -> bool:
    return a.to_frame().equals(b.to_frame()) and a.user_ids == b.user_ids


def test_a_split_survives_saving_and_opening(tmp_path: Path) -> None:
    data = invented()
    split = strong_generalization(data, n_validation_users=9, n_test_users=9, rng=0)
    path = split.save(tmp_path / "split")
    opened = Split.open(path, verify=True)
    assert all(same(a, b) for a, b in zip(parts(split), parts(opened), strict=True))
    assert (opened.protocol, opened.settings) == (split.protocol, split.settings)
    assert opened.test.fold_in.items is not None
    assert opened.test.fold_in.item_ids is opened.train.item_ids
    assert isinstance(opened.train.indices, np.memmap)
    with pytest.raises(StorageError, match="exists already"):
        split.save(path)
    split.save(path, overwrite=True)


def test_foreign_folders_are_never_overwritten(tmp_path: Path) -> None:
    split = strong_generalization(invented(), n_validation_users=9, n_test_users=9, rng=0)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StorageError, match="coterie did not write"):
        split.save(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("limit", [50, 500, 5000])  # 5000 leaves room for all but the manifest
def test_a_full_disk_leaves_the_split_before(limit: int, tmp_path: Path) -> None:
    split = strong_generalization(invented(), n_validation_users=9, n_test_users=9, rng=0)
    path = split.save(tmp_path / "split")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    other = replace(split, settings={"notes": "x" * 9000})
    with no_file_larger_than(limit), pytest.raises(StorageError, match=r"disk is full: .*split"):
        other.save(path, overwrite=True)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["split"]


def test_a_damaged_or_mixed_split_folder_is_refused(tmp_path: Path) -> None:
    data = invented()
    for seed in (0, 1):
        split = strong_generalization(data, n_validation_users=9, n_test_users=9, rng=seed)
        split.save(tmp_path / f"split{seed}")
    with pytest.raises(ArtifactError, match="does not exist"):
        Split.open(tmp_path / "nothing")
    part = tmp_path / "split0" / "test_held_out"
    (tmp_path / "split1" / "test_held_out").rename(tmp_path / "away")
    with pytest.raises(ArtifactError, match="test_held_out does not exist"):
        Split.open(tmp_path / "split1")
    part.rename(tmp_path / "split1" / "test_held_out")
    with pytest.raises(ArtifactError, match="not the part that this split was saved with"):
        Split.open(tmp_path / "split1")
    manifest = tmp_path / "split0" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 0}))
    with pytest.raises(ArtifactError, match=r"older version of coterie.*`coterie split`"):
        Split.open(tmp_path / "split0")


@pytest.mark.parametrize("key", ["parts", "protocol", "settings"])
@pytest.mark.parametrize("value", [None, 3, ["train"]])
def test_facts_of_a_wrong_type_are_refused(key: str, value: object, tmp_path: Path) -> None:
    split = strong_generalization(invented(), n_validation_users=9, n_test_users=9, rng=0)
    path = split.save(tmp_path / "split")
    manifest = json.loads((path / "manifest.json").read_text())
    for edited in ({**manifest, key: value}, {k: v for k, v in manifest.items() if k != key}):
        (path / "manifest.json").write_text(json.dumps(edited))
        with pytest.raises(ArtifactError, match=f"'{key}' in manifest\\.json must be"):
            Split.open(path)


def test_parts_of_a_wrong_type_are_refused(tmp_path: Path) -> None:
    split = strong_generalization(invented(), n_validation_users=9, n_test_users=9, rng=0)
    path = split.save(tmp_path / "split")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "parts": {"train": [1]}}))
    with pytest.raises(ArtifactError, match="not the part that this split was saved with"):
        Split.open(path)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    data = invented()
    with pytest.raises(DataError, match="same users and items, got 60 x 40 and 1 x 40"):
        HeldOut(data, data.rows(np.array([3])))
    with pytest.raises(DataError, match="stand both in the fold-in and held out"):
        HeldOut(data, data).check()
    shuffled = data.rows(np.arange(60)[::-1])
    with pytest.raises(DataError, match="same users in the same order"):
        HeldOut(data, shuffled).check()
    small = data.select_items(IdMap(["i0001", "i0002"]))
    with pytest.raises(DataError, match="train 2"):
        Split(small, HeldOut(data, data), HeldOut(data, data), "given")
