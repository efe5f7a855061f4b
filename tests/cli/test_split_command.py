"""``coterie split``: every protocol, and settings that do not fit it."""

import polars as pl
import pytest

from coterie.cli.split import MEANT_FOR, SplitOptions
from coterie.data.parts import Split


def test_strong_by_default_a_tenth_of_the_users(coterie, workspace, tmp_path):
    facts = coterie("split", workspace.data, "--out", tmp_path / "s", "--json").json()
    assert facts["protocol"] == "strong-generalization"
    assert (facts["validation"]["users"], facts["test"]["users"]) == (20, 20)
    Split.open(tmp_path / "s", verify=True).check()


@pytest.mark.parametrize(
    ("flags", "protocol"),
    [
        (["--n-validation-users", 7, "--n-test-users", 9], "strong-generalization"),
        (["--protocol", "weak", "--test-fraction", 0.3], "weak-generalization"),
        (["--protocol", "leave-one-out", "--by", "time"], "leave-one-out"),
        (["--protocol", "temporal-user"], "temporal-user"),
        (
            ["--protocol", "temporal", "--validation-from", "2015-01-01", "--test-from", 1.6e9],
            "temporal",
        ),
    ],
)
def test_protocols(flags, protocol, coterie, workspace, tmp_path):
    flags = [int(flag) if isinstance(flag, float) and flag > 1 else flag for flag in flags]
    ended = coterie("split", workspace.data, "--out", tmp_path / "s", *flags, "--json")
    assert ended.code == 0, ended.err
    assert ended.json()["protocol"] == protocol
    Split.open(tmp_path / "s").check()


def test_dates_are_utc(coterie, workspace, tmp_path):
    flags = ("--protocol", "temporal", "--validation-from", "2015-01-01", "--test-from")
    facts = coterie(
        "split", workspace.data, "--out", tmp_path / "s", *flags, "2020-01-01", "--json"
    )
    assert facts.json()["settings"]["validation_from"] == 1_420_070_400


def test_seed(coterie, workspace, tmp_path):
    users = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert coterie("split", workspace.data, "--out", tmp_path / name, "--seed", seed).code == 0
        users.append(Split.open(tmp_path / name).test.fold_in.user_ids.ids.to_list())
    assert users[0] == users[1] != users[2]


def test_a_log_as_it_is(coterie, workspace, tmp_path):
    ended = coterie("split", workspace.log, "--out", tmp_path / "s", "--json")
    assert ended.json()["train"]["users"] == 160


def test_given_pair_of_files(coterie, tmp_path):
    train = {"user_id": [1, 1, 1, 2, 2], "item_id": [1, 2, 3, 1, 4]}
    pl.DataFrame(train).write_parquet(tmp_path / "train.parquet")
    pl.DataFrame({"user_id": [1, 2], "item_id": [4, 2]}).write_parquet(tmp_path / "test.parquet")
    ended = coterie(
        "split", tmp_path / "train.parquet", "--test", tmp_path / "test.parquet",
        "--protocol", "given", "--out", tmp_path / "s", "--json",
    )  # fmt: skip
    assert ended.json()["test"] == {"users": 2, "fold_in": 5, "held_out": 2}


def test_given_pair_in_the_lightgcn_form(coterie, tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "train.txt").write_text("0 1 2 3\n1 2 4\n")
    (tmp_path / "g" / "test.txt").write_text("0 4\n1 1\n")
    flags = ("--protocol", "given", "--json", "--out", tmp_path / "s")
    facts = coterie("split", tmp_path / "g", *flags).json()
    assert (facts["items"], facts["test"]["held_out"]) == (4, 2)


def test_given_folder_of_liang(coterie, tmp_path):
    folder = tmp_path / "pro_sg"
    folder.mkdir()
    (folder / "unique_sid.txt").write_text("10\n20\n30\n")
    parts = {"train": "0,0\n0,1\n1,2", "validation_tr": "2,0", "validation_te": "2,1"}
    parts |= {"test_tr": "3,0\n3,1", "test_te": "3,2"}
    for name, rows in parts.items():
        (folder / f"{name}.csv").write_text(f"uid,sid\n{rows}\n")
    flags = ("--protocol", "given", "--json", "--out", tmp_path / "s")
    facts = coterie("split", folder, *flags).json()
    assert facts["train"] == {"users": 2, "interactions": 3}
    assert facts["test"] == {"users": 1, "fold_in": 2, "held_out": 1}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--by", "time"], "'strong' has no use for --by"),
        (["--protocol", "weak", "--fold-in-fraction", "0.5"], "no use for --fold-in-fraction"),
        (["--test", "x"], "no use for --test"),
        (["--protocol", "temporal"], "--validation-from and --test-from"),
        (["--n-test-users", "500"], "500"),
        (["--n-test-users", "-1"], "split.n_test_users"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace, tmp_path):
    ended = coterie("split", workspace.data, "--out", tmp_path / "s", *flags)
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "s").exists()


def test_no_timestamps(coterie, tmp_path):
    pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2]}).write_csv(tmp_path / "log.csv")
    flags = ("--out", tmp_path / "s", "--protocol", "temporal-user")
    ended = coterie("split", tmp_path / "log.csv", *flags)
    assert ended.code == 2
    assert "timestamp" in ended.message()


def test_truncated_data_set(coterie, workspace, tmp_path):
    import shutil

    shutil.copytree(workspace.data, tmp_path / "d")
    file = tmp_path / "d" / "indices.npy"
    file.write_bytes(file.read_bytes()[:-4])
    ended = coterie("split", tmp_path / "d", "--out", tmp_path / "s")
    assert ended.code == 2
    assert "truncated or edited" in ended.message()


def test_every_setting_is_meant_for_a_protocol():
    assert set().union(*MEANT_FOR.values()) == set(SplitOptions.model_fields) - {"protocol"}
