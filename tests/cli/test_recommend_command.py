"""``coterie recommend``: one history and many."""

import polars as pl
import pytest

from coterie.data.parts import Split
from coterie.recommender import Recommender


def ids(ended):
    return [item["item_id"] for item in ended.json()["items"]]


def test_same_as_the_library(coterie, workspace):
    history = ["1001", "1005"]
    ended = coterie("recommend", workspace.run, "--history", *history, "-k", 5, "--json")
    expected = Recommender.load(workspace.run / "model").recommend([history], k=5)
    assert ids(ended) == expected.to_lists()[0]
    assert ended.json()["fallback"] is False
    assert ended.json()["items"][0]["title"].startswith("Title ")


def test_for_people_names_unknown_items(coterie, workspace):
    ended = coterie("recommend", workspace.run, "--history", "1001", "777", "-k", 2)
    assert ended.code == 0
    assert "Title" in ended.out
    assert "777" in ended.err
    assert "777" not in ended.out


def test_unknown_items_strictly(coterie, workspace):
    ended = coterie("recommend", workspace.run, "--history", "1001", "777", "--strict")
    assert ended.code == 2
    assert "777" in ended.message()
    assert "Leave them out, or leave out --strict to go on without them." in ended.message()
    twisted = coterie("recommend", workspace.run, "--history", "1001", "--strict", "777")
    assert (twisted.code, twisted.message()) == (2, "unexpected argument 777")


def test_an_empty_id_is_quoted(coterie, workspace):
    ended = coterie("recommend", workspace.run, "--history", "", "-k", 1)
    assert ended.err == "coterie: the model does not know these item ids: ''\n"


def test_no_history_gives_the_popular(coterie, workspace):
    ended = coterie("recommend", workspace.run, "--json", "-k", 3, "--history")
    counts = Recommender.load(workspace.run / "model")
    best = counts.item_ids.to_ids(counts.item_counts.argsort(kind="stable")[::-1][:1])[0]
    assert ended.json()["fallback"] is True
    assert ids(ended)[0] == best
    assert "Most popular" in coterie("recommend", workspace.run, "--history").out


def test_allow_and_deny_by_file(coterie, workspace, tmp_path):
    (tmp_path / "stock.txt").write_text("1002\n1003\n\n1004\n")
    run = ("recommend", workspace.run, "--history", "1001", "--json")
    allowed = coterie(*run, "--allow", f"@{tmp_path / 'stock.txt'}")
    assert sorted(ids(allowed)) == [1002, 1003, 1004]
    denied = coterie(*run, "--allow", f"@{tmp_path / 'stock.txt'}", "--deny", "1003")
    assert sorted(ids(denied)) == [1002, 1004]
    ended = coterie(*run, "--deny", "@nowhere.txt")
    assert ended.code == 2
    assert "nowhere.txt" in ended.message()


def test_seen_items(coterie, workspace):
    run = ("recommend", workspace.run, "--history", "1001", "-k", 60, "--json")
    assert 1001 not in ids(coterie(*run))
    assert 1001 in ids(coterie(*run, "--no-exclude-seen"))


@pytest.mark.parametrize("source", ["data", "log"])
def test_many_users(source, coterie, workspace, tmp_path):
    out = tmp_path / "lists.parquet"
    run = ("recommend", workspace.run, "--data", getattr(workspace, source), "--out", out)
    facts = coterie(*run, "-k", 4, "--json").json()
    frame = pl.read_parquet(out)
    assert facts["users"] == frame["user_id"].n_unique() == 200
    assert frame["rank"].max() == 4
    again = coterie(*run)
    assert again.code == 2
    assert "exists already" in again.message()
    assert coterie(*run, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "Say for whom: --history"),
        (["--deny", "1001"], "Say for whom: --history"),
        (["--data", "x"], "belong together"),
        (["--out", "x.parquet"], "belong together"),
        (["--data", "x", "--out", "y.parquet", "--history", "1"], "one of the two"),
        (["-k", "0"], "recommend.k"),
        (["--data", "nothing.csv", "--out", "y.parquet"], "does not exist"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = coterie("recommend", workspace.run, *flags)
    assert ended.code == 2
    assert expected in ended.message()
    assert list(tmp_path.iterdir()) == []


def test_k_beyond_all_items_is_all_items(coterie, workspace):
    run = ("recommend", workspace.run, "--history", 1001, "--json", "-k")
    assert coterie(*run, 10**12).json() == coterie(*run, 60).json()
    similar = ("similar", workspace.run, 1001, "--json", "-k")
    assert coterie(*similar, 10**12).json() == coterie(*similar, 60).json()


def test_ids_in_a_file_with_a_byte_order_mark(coterie, workspace, tmp_path):
    (tmp_path / "ids.txt").write_text("1001\n1002\n", encoding="utf-8-sig")
    found = coterie("recommend", workspace.run, "--history", f"@{tmp_path / 'ids.txt'}", "--json")
    assert found.json()["unknown"] == []


def test_lists_are_written_as_parquet_only(coterie, workspace, tmp_path):
    ended = coterie(
        "recommend", workspace.run, "--data", workspace.data, "--out", tmp_path / "l.csv"
    )
    assert ended.code == 2
    assert "must end in .parquet" in ended.message()
    assert not (tmp_path / "l.csv").exists()


def test_a_split_is_answered_with_its_parts(coterie, workspace, tmp_path):
    run = ("recommend", workspace.run, "--out", tmp_path / "lists.parquet", "--data")
    ended = coterie(*run, workspace.split)
    assert ended.code == 2
    told, _, parts = ended.message().rstrip(".").partition("parts: ")
    assert told == f"{workspace.split} is a split; give one of its "
    for part in parts.split(", "):
        assert coterie(*run, part, "--overwrite").code == 0
    test = parts.split(", ")[0]
    facts = coterie(*run, test, "--overwrite", "--json").json()
    assert facts["users"] == Split.open(workspace.split).test.n_users


def test_no_model_is_said_so(coterie, tmp_path):
    ended = coterie("recommend", tmp_path / "nope", "--history", "1")
    assert ended.code == 2
    expected = f"There is no model at {tmp_path / 'nope'}, which does not exist; `coterie train` "
    assert ended.message().startswith(expected)
