"""Classes of pairs by hand, shares of help, far-but-related pairs, and given pairs' scores."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from coterie.errors import ConfigError, DataError
from coterie.mechanisms import collaboration as module
from coterie.mechanisms.collaboration import (
    CLASSES,
    Collaboration,
    classify,
    collaboration,
    pair_scores,
)
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.measurement import Budget
from coterie.models.vae import VAE
from histories import interactions_of
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


def test_no_help_is_no_share_and_an_empty_class_is_announced() -> None:
    result = found()
    worse = replace(result, pairs=replace(result.pairs, change=np.ones(len(result.classes))))
    assert worse.global_share == 0
    assert worse.to_frame()["share_of_help"].to_list() == [0] * 4
    chosen = np.zeros(len(result.classes), dtype=bool)
    interval = module._bootstrap(worse.pairs, chosen, torch.Generator())
    assert np.isnan(interval).all()
    empty = replace(result, classes=np.where(result.classes == 2, 3, result.classes))
    assert any("Only 0 unrelated" in text for text in empty.warnings())
    assert "unrelated" not in empty.sentence().split("cosine")[1].split("Theorem")[0]
    assert len(empty.plot().axes) == 2


def test_far_but_related_pairs_are_global_and_shown_by_their_titles() -> None:
    result, data = found(), small_split().train
    assert 0 < len(result.related) <= 10
    counts = data.item_counts()
    cosines = [pair.cosine for pair in result.related]
    assert cosines == sorted(cosines, reverse=True)
    chosen = result.classes == CLASSES.index("global")
    assert cosines[0] == result.pairs.gradients.cosine[chosen].max()
    for pair in result.related:
        assert pair.input_distance > result.far
        one, other = (
            set(data.indices[data.indptr[w] : data.indptr[w + 1]].tolist())
            for w in (pair.user, pair.other)
        )
        shared, mine, theirs = (
            [int(title.removeprefix("Film ")) for title in titles]
            for titles in (pair.shared, pair.of_user, pair.of_other)
        )
        assert shared
        assert set(shared) <= one & other
        assert set(mine) <= one - other
        assert set(theirs) <= other - one
        assert counts[shared].tolist() == sorted(counts[sorted(one & other)])[: len(shared)]
        assert counts[mine].tolist() == sorted(counts[sorted(one - other)])[::-1][: len(mine)]
    frame = result.related_frame()
    assert frame["cosine"].to_list() == cosines
    assert frame["shared"][0] == "; ".join(result.related[0].shared)
    plain = measured(item_titles=None).related[0]
    assert set(plain.shared) <= set(data.item_ids.to_ids(np.arange(data.n_items)).to_list())


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


def test_given_pairs_scores_are_the_engines_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = small_split().train, trained()
    pairs = np.random.default_rng(0).integers(0, data.n_users, (40, 2))
    pairs = np.concatenate([pairs, pairs[:1, ::-1], [[5, 5]]])

    def scores() -> module.PairScores:
        return pair_scores(model, data, pairs, generator=torch.Generator().manual_seed(2))

    once = scores()
    everyone = np.arange(data.n_users)
    codes = common_noise_codes(encode(model, data, everyone), 8, torch.Generator().manual_seed(2))
    expected = DecoderGradients(model, data.to_scipy(), codes).pairs(pairs)
    assert once.influence == pytest.approx(expected.influence, rel=1e-5)
    assert once.cosine == pytest.approx(expected.cosine, rel=1e-5)
    assert once.cosine[-2] == pytest.approx(once.cosine[0]), "symmetric"
    assert once.cosine[-1] == pytest.approx(1)
    monkeypatch.setattr(module, "SCORED_BYTES", 8 * 8 * data.n_items * 3)  # three pairs at a time
    blocks = scores()
    assert blocks.influence == pytest.approx(once.influence, rel=1e-6)
    assert blocks.cosine == pytest.approx(once.cosine, rel=1e-6)
    none = pair_scores(model, data, np.empty((0, 2), dtype=np.int64), generator=torch.Generator())
    assert len(none.influence) == len(none.cosine) == 0


def test_bad_input() -> None:
    data, model, generator = small_split().train, trained(), torch.Generator()
    with pytest.raises(ConfigError, match="one title per item, 160; got 1"):
        collaboration(model, data, generator=generator, item_titles=["one"])
    for pairs, words in (
        ([1, 2], "shape"),
        ([[0, data.n_users]], "users 0"),
        ([[-1, 0]], "users 0"),
    ):
        with pytest.raises(DataError, match=words):
            pair_scores(model, data, np.array(pairs), generator=generator)
    histories = interactions_of([[0], []], data.n_items)
    with pytest.raises(DataError, match="without any item"):
        pair_scores(model, histories, np.array([[0, 1]]), generator=generator)


def test_plot_has_labels_and_no_window() -> None:
    axes = found().plot().axes
    assert all(ax.get_ylabel() and ax.get_title() for ax in axes)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == list(CLASSES)
    assert isinstance(found().to_frame(), pl.DataFrame)
