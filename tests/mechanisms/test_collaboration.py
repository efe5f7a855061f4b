"""Classes of pairs by hand, shares of help, and which pairs are far but related."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from coterie.errors import ConfigError
from coterie.mechanisms import collaboration as module
from coterie.mechanisms.collaboration import (
    CLASSES,
    Collaboration,
    classify,
    collaboration,
)
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.related import shared_taste, tastes
from coterie.models.vae import VAE
from training.small_run import run, small_split

BUDGET = Budget(seconds=0.3)
TITLES = [f"Film {item}" for item in range(small_split().train.n_items)]


@cache
def trained() -> VAE:
    return run().recommender.model


def measured(seed: int = 0, **options: object) -> Collaboration:
    generator = torch.Generator().manual_seed(seed)
    options = {"budget": BUDGET, "item_titles": TITLES, **options}
    return collaboration(trained(), small_split().train, generator=generator, **options)  # type: ignore[arg-type]


@cache
def found() -> Collaboration:
    return measured()


def test_classes_by_hand() -> None:
    distance = np.array([1, *range(10, 29)])  # 20 pairs: 5 % quantile 9.55, median 18.5
    shared = np.array([0, *[1, 0] * 9, 3])
    classes, near, far = classify(distance, shared)
    assert near == pytest.approx(9.55)
    assert far == 18.5
    named = [CLASSES[at] for at in classes]
    assert named[0] == "local", "even without a shared item: the distance decides"
    assert named[1:10] == ["between", "unrelated"] * 4 + ["between"]
    assert named[10:] == ["unrelated", "global"] * 5


def test_classes_are_those_of_the_dense_histories() -> None:
    result, dense = found(), small_split().train.to_scipy().toarray()
    left, right = (dense[result.pairs.users[:, side]] for side in (0, 1))
    distance, shared = np.abs(left - right).sum(1), (left * right).sum(1)
    nearest, median = np.quantile(distance, 0.05), np.median(distance)
    for at, name in enumerate(result.classes):
        if distance[at] <= nearest:
            expected = "local"
        elif shared[at] == 0:
            expected = "unrelated"
        else:
            expected = "global" if distance[at] > median else "between"
        assert CLASSES[name] == expected
    assert result.pairs.random.all(), "no nearest neighbours, which would bias the shares"


def test_shares_and_means_are_those_of_the_pairs() -> None:
    result = found()
    table = result.to_frame()
    assert table["class"].to_list() == list(CLASSES)
    assert table["n_pairs"].sum() == len(result.classes)
    assert table["share_of_pairs"].sum() == pytest.approx(1)
    assert table["share_of_help"].sum() == pytest.approx(1)
    help_ = np.where(result.pairs.change < 0, -result.pairs.change, 0)
    is_global = np.array([CLASSES[at] == "global" for at in result.classes])
    assert result.global_share == pytest.approx(help_[is_global].sum() / help_.sum())
    row = table.row(CLASSES.index("global"), named=True)
    assert row["help"] == pytest.approx(help_[is_global].mean())
    assert row["cosine"] == pytest.approx(result.pairs.gradients.cosine[is_global].mean())
    assert row["certified"] == result.pairs.certified[is_global].mean()
    assert result.figures()["global_share"] == result.global_share


def test_the_interval_of_the_global_share_covers_it_and_narrows() -> None:
    low, high = found().share_interval
    assert 0 <= low < found().global_share < high <= 1
    few, many = (measured(budget=Budget(seconds=s)).share_interval for s in (0.02, 1.0))
    assert many[1] - many[0] < few[1] - few[0]


def test_the_interval_is_that_of_users_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws of users, and each pair as often as both of its users together were drawn."""
    pairs, is_global = found().pairs, found().classes == CLASSES.index("global")
    monkeypatch.setattr(module, "N_RESAMPLES", 150)
    monkeypatch.setattr(module, "RESAMPLED_AT_ONCE", 7 * len(pairs.users))  # seven at once
    low, high = module._bootstrap(pairs, is_global, torch.Generator().manual_seed(5))
    known = np.unique(pairs.users).tolist()
    drawn = torch.randint(
        0, len(known), (150, len(known)), generator=torch.Generator().manual_seed(5)
    )
    shares = []
    for row in drawn.tolist():
        times = Counter(known[at] for at in row)
        helps = [
            times[u] * times[v] * max(-change, 0)
            for (u, v), change in zip(pairs.users.tolist(), pairs.change.tolist(), strict=True)
        ]
        shares.append(np.sum(np.array(helps)[is_global]) / np.sum(helps))
    assert (low, high) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))


def test_no_help_is_no_share_and_an_empty_class_is_announced() -> None:
    result = found()
    worse = replace(result, pairs=replace(result.pairs, change=np.ones(len(result.classes))))
    assert worse.global_share == worse.related_share == 0
    assert worse.to_frame()["share_of_help"].to_list() == [0] * 4
    chosen = np.zeros(len(result.classes), dtype=bool)
    interval = module._bootstrap(worse.pairs, chosen, torch.Generator())
    assert np.isnan(interval).all()
    empty = replace(result, classes=np.where(result.classes == 2, 3, result.classes))
    assert any("Only 0 unrelated" in text for text in empty.warnings())
    assert "unrelated" not in empty.sentence().split("cosine")[1].split("Theorem")[0]
    assert len(empty.plot().axes) == 2
    none = replace(result, classes=np.where(result.classes == 1, 3, result.classes))
    assert none.figures()["related_cosine"] == none.related_share == 0
    assert "far-but-related" not in none.sentence()


def test_far_but_related_pairs_are_the_tenth_of_the_global_with_most_shared_taste() -> None:
    result, data = found(), small_split().train
    users, rows = np.unique(result.pairs.users, return_inverse=True)
    taste = shared_taste(tastes(trained(), data, users), rows.reshape(-1, 2))
    assert result.taste == pytest.approx(taste)
    of_global = np.flatnonzero(result.classes == CLASSES.index("global"))
    assert len(result.most_related) == np.ceil(len(of_global) / 10)
    assert set(result.most_related) <= set(of_global)
    others = np.setdiff1d(of_global, result.most_related)
    assert taste[result.most_related].min() >= taste[others].max()
    assert (np.diff(taste[result.most_related]) <= 0).all()
    help_ = result.help
    share = help_[result.most_related].sum() / help_[of_global].sum()
    cosine = result.pairs.gradients.cosine[result.most_related].mean()
    figures = result.figures()
    assert figures["related_share_of_global_help"] == pytest.approx(share)
    assert figures["related_cosine"] == pytest.approx(cosine)
    assert f"give {share:.1%} of the global pairs' help" in result.sentence()
    for pair, at in zip(result.related, result.most_related.tolist(), strict=False):
        assert [pair.user, pair.other] == result.pairs.users[at].tolist()
        assert pair.input_distance > result.far
    assert len(result.related) == min(10, len(result.most_related))
    frame = result.related_frame()
    assert frame["taste"].to_list() == pytest.approx(taste[result.most_related][: len(frame)])
    assert frame["shared"][0] == "; ".join(result.related[0].shared)
    plain = measured(item_titles=None).related[0]
    assert set(plain.shared) <= set(data.item_ids.to_ids(np.arange(data.n_items)).to_list())
    assert [TITLES.index(title) for title in result.related[0].shared] == [
        data.item_ids.to_ids(np.arange(data.n_items)).to_list().index(name) for name in plain.shared
    ]


def test_same_seed_same_result_and_another_seed_another() -> None:
    again = measured()
    assert again.to_frame().equals(found().to_frame(), null_equal=True)
    assert again.share_interval == found().share_interval
    assert [vars(pair) for pair in again.related] == [vars(pair) for pair in found().related]
    assert measured(seed=1).global_share != again.global_share


def test_the_sentence_names_sample_share_and_interval() -> None:
    text = found().sentence()
    assert str(found().sample) in text
    assert f"{found().global_share:.1%}" in text
    assert f"{found().share_interval[0]:.1%} to {found().share_interval[1]:.1%}" in text


def test_bad_input() -> None:
    data, model, generator = small_split().train, trained(), torch.Generator()
    with pytest.raises(ConfigError, match="one title per item, 160; got 1"):
        collaboration(model, data, generator=generator, item_titles=["one"])


def test_plot_has_labels_and_no_window() -> None:
    axes = found().plot().axes
    assert all(ax.get_ylabel() and ax.get_title() for ax in axes)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == list(CLASSES)
    assert isinstance(found().to_frame(), pl.DataFrame)
