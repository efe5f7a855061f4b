"""``coterie similar``: neighbours by anchors or decoder."""

import pytest

from coterie.errors import NotFittedError
from coterie.recommender import Recommender


def test_same_as_the_library(coterie, workspace):
    facts = coterie("similar", workspace.run, 1001, 1002, "-k", 3, "--json").json()
    expected = Recommender.load(workspace.run / "model").similar_items([1001, 1002], k=3)
    assert facts["source"] == "anchors"
    found = [item["similar_item_id"] for item in facts["items"]]
    assert found == expected.to_frame()["similar_item_id"].to_list()


def test_for_people(coterie, workspace):
    ended = coterie("similar", workspace.run, "1001", "777", "--source", "decoder")
    assert ended.code == 0
    assert "cosine of decoder" in ended.out
    assert "777" in ended.err


def test_unknown(coterie, workspace):
    ended = coterie("similar", workspace.run, "777")
    assert ended.code == 2
    assert "777" in ended.message()
    assert coterie("similar", workspace.run, "1001", "777", "--strict").code == 2


def test_what_to_say_instead_is_a_flag_here_and_an_argument_in_python(coterie, workspace, tmp_path):
    recommender = Recommender.load(workspace.run / "model")
    recommender.anchors = None
    path = recommender.save(tmp_path / "model")
    ended = coterie("similar", path, 1001, "--source", "anchors")
    assert ended.code == 2
    assert ended.message().endswith("it was trained without alignment. Say --source decoder.")
    with pytest.raises(NotFittedError, match='Pass source="decoder"'):
        recommender.similar_items([1001], source="anchors")
