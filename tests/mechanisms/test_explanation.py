"""A user explained: itself left out, titles, unknown ids, communities, and bad input."""

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.explanation import Explanation, explain, find_user
from coterie.recommender import Recommender
from training.small_run import experiment, run, small_split


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def trained() -> Recommender:
    """Enough epochs for the history to matter."""
    found = run(experiment(epochs=15, pia=0.1)).recommender
    titles = [f"Title {item}" for item in range(found.n_items)]
    items = pl.DataFrame({"item_id": found.item_ids.ids, "title": titles})
    return Recommender(found.model, found.item_ids, found.item_counts, items=items)


def explained(whom: object, **options: object) -> Explanation:
    given: dict[str, object] = {"generator": seeded(), "k": 3, **options}
    return explain(trained(), whom, small_split().train, **given)  # type: ignore[arg-type]


def ids_of(data: Interactions, user: int) -> list[object]:
    ids: list[object] = data.item_ids.to_ids(data.row(user)).to_list()
    return ids


def test_a_user_of_the_community_is_not_its_own_neighbour() -> None:
    train = small_split().train
    name = train.user_ids.ids[4]
    by_user, by_history = explained(name), explained(ids_of(train, 4))
    assert name not in by_user.neighbourhood.user_ids
    assert name == by_history.neighbourhood.user_ids[0], "its twin helps most"
    assert name not in by_user.attribution.neighbours_frame()["user_id"]
    expected = trained().recommend([ids_of(train, 4)], k=3).item_index[0]
    assert by_user.attribution.items.tolist() == expected.tolist()
    np.testing.assert_array_equal(
        by_user.attribution.contributions, by_history.attribution.contributions
    )


def test_same_seed_same_explanation() -> None:
    history = ids_of(small_split().test.fold_in, 0)
    assert explained(history).to_dict() == explained(history).to_dict()


def test_the_community_may_have_other_items_in_another_order() -> None:
    train = small_split().train
    order = np.random.default_rng(0).permutation(train.n_items)
    ids = [*train.item_ids.to_ids(order), "unheard"]
    other = train.select_items(IdMap(ids))
    history = ids_of(small_split().test.fold_in, 0)
    same = explain(trained(), history, other, generator=seeded(), k=3)
    assert same.to_dict() == explained(history).to_dict()


def test_titles_and_unknown_ids_are_told() -> None:
    fold_in = small_split().test.fold_in
    history = ids_of(fold_in, 0)
    item = next(i for i in fold_in.item_ids.ids if i not in history)
    found = explained([*history, "nothing"], items=[item, "none"])
    assert found.unknown["item_id"].to_list() == ["nothing", "none"]
    assert "nothing, none" in found.warnings()[-1]
    index = int(fold_in.item_ids.to_index([item])[0])
    assert found.attribution.items.tolist() == [index]
    assert f"Title {index}" in found.attribution.sentence()
    facts = found.to_dict()
    assert facts["items"][0]["title"] == f"Title {index}"
    assert [row["rank"] for row in facts["contributions"]] == [1, 2, 3]
    frame = found.to_frame()
    assert frame["history_title"].str.starts_with("Title ").all()
    assert len(frame) == len(history)
    assert frame["contribution"].is_sorted(descending=True)


def test_bad_input_of_an_explanation() -> None:
    train = small_split().train
    history, name = ids_of(train, 4), str(train.user_ids.ids[4])
    for whom, options, message in (
        ([], {}, "nothing to explain"),
        (["unheard"], {}, "no item that the model knows"),
        ([history, history], {}, "those of 2"),
        (f"{name}x", {}, "near it are .*" + name),
        (history, {"items": ["unheard"]}, "none of the items to explain: unheard"),
        (history, {"items": []}, "none given"),
        (history, {"items": history[:1]}, "in the history already.* Title"),
    ):
        with pytest.raises(DataError, match=message):
            explained(whom, **options)
    with pytest.raises(ConfigError, match="k must be 1 or more"):
        explained(history, k=0)


def test_finding_a_user_among_several_communities() -> None:
    split = small_split()
    parts = (split.train, split.validation.fold_in, split.test.fold_in)
    assert find_user(str(parts[2].user_ids.ids[5]), *parts) == (2, 5)
    with pytest.raises(DataError, match="among the 500 known; ids look like"):
        find_user("?", *parts)


def test_plots() -> None:
    found = explained(ids_of(small_split().test.fold_in, 0))
    left, right = found.plot().axes
    best = found.attribution.history[found.attribution.top(0)]
    assert [label.get_text() for label in left.get_yticklabels()] == [f"Title {i}" for i in best]
    assert len(right.get_yticklabels()) == found.neighbourhood.k == 3
    assert len(found.attribution.plot().axes) == 3
