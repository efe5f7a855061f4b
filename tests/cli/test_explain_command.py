"""``coterie explain``: who helps a user, and what its items' scores rest on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coterie.cli.explain import neighbour_table
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.mechanisms.explanation import explain
from coterie.models.baselines.ease import EaseConfig
from coterie.recommender import Recommender

HISTORY = ["1001", "1005", "1009"]


def test_same_as_the_library(coterie, workspace):
    run = ("explain", workspace.run, workspace.split, "-k", 3, "--seed", 7, "--json")
    facts = coterie(*run, "--history", *HISTORY, "--item", 1002, 1003).json()
    expected = explain(
        Recommender.load(workspace.run / "model"),
        HISTORY,
        Split.open(workspace.split).train,
        items=["1002", "1003"],
        k=3,
        generator=torch.Generator().manual_seed(7),
    ).to_dict()
    assert {key: facts[key] for key in expected} == expected
    assert facts["history_items"] == 3
    assert [row["item_id"] for row in facts["items"]] == [1002, 1003]
    assert facts["items"][0]["title"] == "Title 2"


def test_for_people_with_titles_within_80_columns(coterie, workspace, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = coterie("explain", workspace.run, workspace.split, "--history", *HISTORY, "777")
    assert ended.code == 0
    tables = ended.out.split("who helps", 1)[1]
    assert max(map(len, tables.splitlines())) <= 80
    assert tables.count("Title ") >= 10
    assert "1001 Title 1" in " ".join(tables.split()), "ids go on with --item"
    assert "…" not in tables
    for heading in ("most through", "rests on", "through users"):
        assert heading in tables
    assert "candidates near this user" in ended.out
    assert "777" in ended.err


def test_a_baseline_tells_what_a_score_rests_on_and_why_not_more(coterie, workspace, tmp_path):
    train = Split.open(workspace.split).train
    recommender = Recommender.fit(EaseConfig(l2=10.0), train)
    path = recommender.save(tmp_path / "ease")
    run = ("explain", path, workspace.split, "--history", *HISTORY, "--item", 1002)
    facts = coterie(*run, "--json").json()
    assert "no autoencoder" in facts["skipped"]
    assert facts["neighbours"] == facts["item_neighbours"] == []
    weights = recommender.model.state_dict()["weights"]
    item = int(train.item_ids.to_index([1002])[0])
    rows = train.item_ids.to_index(HISTORY)
    expected = dict(zip(map(int, HISTORY), weights[rows, item].tolist(), strict=True))
    found = {row["history_item_id"]: row["contribution"] for row in facts["contributions"]}
    assert found == pytest.approx(expected, rel=1e-4), "EASE is a sum of weights"
    figures = tmp_path / "figures"
    shown = coterie(*run, "--figures", figures)
    assert shown.code == 0, shown.err
    assert "its score is" in shown.out
    assert "nats" not in shown.out
    assert "not known: ease is no autoencoder" in " ".join(shown.err.split())
    assert sorted(file.name for file in figures.iterdir()) == ["attribution.png", "explanation.png"]


@pytest.mark.parametrize("of", ["data", "split"])
def test_a_known_user_is_left_out_of_its_helpers(of, coterie, workspace):
    folder = getattr(workspace, of)
    community = Interactions.open(folder) if of == "data" else Split.open(folder).train
    user = community.user_ids.ids[2]
    run = ("explain", workspace.run, folder, "--user", user, "-k", 200, "--json")
    facts = coterie(*run).json()
    assert facts["history_items"] == community.history_lengths[2]
    assert user not in [row["user_id"] for row in facts["neighbours"]]
    assert facts["sample"]["available"] == community.n_users - 1


def test_a_held_out_user_of_a_split_by_what_is_known_of_it(coterie, workspace):
    fold_in = Split.open(workspace.split).test.fold_in
    user, history = fold_in.user_ids.ids[1], fold_in.item_ids.to_ids(fold_in.row(1))
    run = ("explain", workspace.run, workspace.split, "--json")
    found = coterie(*run, "--user", user).json()
    same = coterie(*run, "--history", *history).json()
    assert found.pop("user") == str(user)
    assert same.pop("user") is None
    assert found == same


def test_figures(coterie, workspace, tmp_path):
    folder = tmp_path / "some" / "figures"
    run = ("explain", workspace.run, workspace.data, "--history", *HISTORY, "-k", 2)
    facts = coterie(*run, "--figures", folder, "--json").json()
    names = ["explanation.png", "neighbourhood.png", "attribution.png"]
    assert facts["written"] == [str(folder / name) for name in names]
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    again = coterie(*run, "--figures", folder)
    assert again.code == 2
    assert "explanation.png" in again.message()
    assert "Written: " in coterie(*run, "--figures", folder, "--overwrite").out
    assert "is a file" in coterie(*run, "--figures", folder / names[0]).message()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--history or --user"),
        (["--user", "101", "--history", "1001"], "one of the two"),
        (["--history"], "--history"),
        (["--history", "@empty.txt"], "holds no item ids"),
        (["--history", "777"], "no item that the model knows"),
        (["--user", "1010"], "There is no user 1010 among the 200 known; near it are 1"),
        (["--user", "nobody"], "ids look like 1"),
        (["--history", "1001", "--item", "777"], "none of the items to explain: 777"),
        (["--history", "1001", "--item", "1001"], "in the history already"),
        (["--history", "1001", "-k", "0"], "k must be 1 or more"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    ended = coterie("explain", workspace.run, workspace.split, *flags)
    assert ended.code == 2
    assert expected in ended.message()


def test_wrong_folders(coterie, workspace, tmp_path):
    mine = ("--history", "1001")
    for model, data, expected in (
        (workspace.data, workspace.data, "expected a model"),
        (workspace.run, tmp_path, "is not a data set"),
        (workspace.run, workspace.run / "model", "expected a data set"),
        (workspace.run, tmp_path / "nowhere", "does not exist"),
    ):
        ended = coterie("explain", model, data, *mine)
        assert ended.code == 2
        assert expected in ended.message()


def test_the_heading_says_who_hurts_and_a_radius_of_nothing_is_left_out(workspace):
    recommender = Recommender.load(workspace.run / "model")
    train, generator = Split.open(workspace.split).train, torch.Generator().manual_seed(0)
    near = explain(recommender, HISTORY, train, k=3, generator=generator).neighbourhood
    assert near is not None
    size = np.ones(len(near.help))
    mixed = size.copy()
    mixed[1] = -1
    for help_, expected in ((size, "who helps ("), (mixed, "below 0"), (-size, "nobody helps")):
        assert expected in neighbour_table(replace(near, help=help_)).title
    for radius, there in ((0 * size, False), (2.5e-5 * size, True)):
        table = neighbour_table(replace(near, radius=radius))
        assert ("radius" in [column.header for column in table.columns]) is there
    cells = next(column for column in table.columns if column.header == "radius").cells
    assert set(cells) == {"2.5·10⁻⁵"}
