from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial.distance import cityblock
from scipy.stats import spearmanr

from coterie.errors import DataError
from coterie.mechanisms import wasserstein as module
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.numbers import number, uncertain
from coterie.mechanisms.wasserstein import Wasserstein, wasserstein
from histories import interactions_of
from training.small_run import experiment, run, small_split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def trained(name: str = "multi-vae") -> torch.nn.Module:
    settings = experiment(model={"name": name}, pia=1.0 if name == "multi-vae" else 0.0)
    return run(settings).recommender.model


@cache
def measured() -> Wasserstein:
    return wasserstein(trained(), small_split().train, generator=generator())


def test_the_measure_on_a_trained_model() -> None:
    found, train = measured(), small_split().train
    frame = found.to_frame()
    assert set(frame["kind"]) == {"random", "nearest"}
    x = train.to_scipy()
    for row in frame.sample(20, seed=0).iter_rows(named=True):
        a, b = (x[[row[name]]].toarray().ravel() for name in ("user", "other"))
        assert row["l1"] == cityblock(a, b)
        assert row["shared"] == (a * b).sum()
        assert row["ratio"] == pytest.approx(row["w1_lower"] / row["l1"])
    assert (frame["w1_lower"] <= frame["w2"] * (1 + 1e-6)).all()
    assert (frame["user"] < frame["other"]).all()
    transported = frame.drop_nulls("w1_transport")
    assert len(transported) == module.MOST_TRANSPORTS
    assert (transported["w1_transport"] >= transported["w1_lower"] * (1 - 1e-5)).all()
    assert transported["w1_transport"].mean() <= 1.02 * transported["w2"].mean()
    assert found.warnings() == []


def test_nearest_pairs_are_nearest_and_figures_are_the_frames() -> None:
    found = measured()
    at, frame = found.figures(), found.to_frame()
    assert at["w2_nearest"] < 0.7 * at["w2_random"]
    random = frame.filter(pl.col("kind") == "random")
    assert at["rank_correlation"] == pytest.approx(spearmanr(random["l1"], random["w2"]).statistic)
    assert at["rank_correlation_low"] < at["rank_correlation"] < at["rank_correlation_high"]
    assert at["ratio_max"] == frame["ratio"].max()
    assert at["ratio_median"] <= at["ratio_95"] <= at["ratio_max"]
    assert 0.8 < at["w1_lower_share_random"] <= 1
    assert uncertain(at["w2_random"], at["w2_random_se"]) in found.sentence()
    assert number(at["rank_correlation"], 2) in found.sentence()


def test_same_seed_same_result_another_seed_another() -> None:
    again = wasserstein(trained(), small_split().train, generator=generator())
    assert again.to_frame().equals(measured().to_frame())
    budget = Budget(seconds=1e-3)
    small, other = (
        wasserstein(trained(), small_split().train, generator=generator(s), budget=budget)
        for s in (0, 1)
    )
    assert not small.to_frame().equals(other.to_frame())
    assert small.sample.used < measured().sample.used


def test_a_small_sample_is_announced() -> None:
    few = wasserstein(
        trained(), small_split().train, generator=generator(), budget=Budget(seconds=1e-4)
    )
    assert few.n_users < 340
    assert f"among {few.n_users} of 340 users" in few.warnings()[0]
    assert few.sample.used < few.sample.available == 340 * 339 // 2


def test_point_posteriors_have_distances_too() -> None:
    found = wasserstein(trained("multi-dae"), small_split().train, generator=generator())
    frame = found.to_frame()
    np.testing.assert_array_equal(frame["w1_lower"], frame["w2"])
    transported = frame.drop_nulls("w1_transport")
    np.testing.assert_allclose(transported["w1_transport"], transported["w2"], rtol=1e-5)


def test_it_says_how_latent_distance_follows_the_histories() -> None:
    frame = measured().to_frame()
    for sign, words in ((1, "closely follows"), (-1, "runs against")):
        changed = frame.with_columns(w2=1000.0 + sign * pl.col("l1"))
        text = replace(measured(), pairs=changed).sentence()
        assert f"{words} the number of differing items" in text


def test_equal_histories_have_no_ratio() -> None:
    train = small_split().train
    doubled = interactions_of([train.row(user // 2).tolist() for user in range(10)], train.n_items)
    found = wasserstein(trained(), doubled, generator=generator())
    equal = found.to_frame().filter(pl.col("l1") == 0)
    assert len(equal) == 10, "five among the random pairs, which are all, and five nearest"
    assert equal["ratio"].null_count() == 10
    assert equal["w2"].max() == 0
    assert any("equal histories" in warning for warning in found.warnings())


def test_too_few_users() -> None:
    with pytest.raises(DataError, match="at least 4 users"):
        wasserstein(trained(), small_split().train.rows(np.arange(3)), generator=generator())


def test_the_plot_has_labels_with_units() -> None:
    (axes,) = measured().plot().axes
    assert "latent units" in axes.get_ylabel()
    assert "L1" in axes.get_xlabel()
    assert len(axes.lines) == 2
