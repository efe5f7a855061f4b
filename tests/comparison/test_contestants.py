"""Who is compared: as JSON and back, by seed, and what is refused before the first run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import coterie
from coterie.comparison.contestants import (
    AnyContestant,
    BaselineContestant,
    SavedContestant,
    Setup,
    VaeContestant,
)
from coterie.data.parts import HeldOut
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import ConfigError, DataError
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import train

TINY = Experiment.read(
    {
        "model": {"hidden_dims": [12], "latent_dim": 4},
        "training": {"epochs": 2, "batch_size": 50, "seed": 99},
    }
)
CPU = Setup(RunContext(device="cpu", precision="fp32"))


@pytest.fixture(scope="module")
def split():
    config = SyntheticConfig(
        n_users=200, n_items=60, n_communities=3, n_niches=2, niche_size=5, mean_history=12
    )
    data = synthetic(config, 0).interactions
    return coterie.strong_generalization(data, n_validation_users=20, n_test_users=30, rng=0)


@pytest.fixture(scope="module")
def saved(split, tmp_path_factory):
    result = train(split.train, split.validation, TINY, context=CPU.context)
    path = result.recommender.save(tmp_path_factory.mktemp("saved") / "m")
    return SavedContestant(name="m", path=path)


def scores(trained, split):
    return trained.recommender.score(split.test.fold_in)


def test_json_and_back(saved):
    read = TypeAdapter(AnyContestant).validate_json
    for one in (
        VaeContestant(name="x y", experiment=TINY),
        BaselineContestant(name="ease", method="ease", options={"l2": 7.0}),
        saved,
    ):
        assert read(one.model_dump_json()) == one


def test_vae_is_trained_by_the_runs_seed(split):
    one = VaeContestant(name="a", experiment=TINY)
    seeded = TINY.model_copy(update={"training": TINY.training.model_copy(update={"seed": 5})})
    expected = train(split.train, split.validation, seeded, context=CPU.context)
    found = one.train(split, 5, CPU)
    assert torch.equal(scores(found, split), expected.recommender.score(split.test.fold_in))
    assert (found.epochs, found.best_epoch) == (2, expected.best_epoch)
    assert not torch.equal(scores(one.train(split, 6, CPU), split), scores(found, split))


def test_vae_without_validation_users_keeps_the_last_epoch(split):
    data = split.train
    given = coterie.strong_generalization(data, n_validation_users=0, n_test_users=20, rng=0)
    found = VaeContestant(name="a", experiment=TINY).train(given, 0, CPU)
    assert (found.epochs, found.best_epoch) == (2, None)


def test_baseline_is_the_recommenders_own(split):
    one = BaselineContestant(name="e", method="ease", options={"l2": 50.0})
    expected = coterie.Recommender.fit(one.config(), split.train)
    assert torch.equal(scores(one.train(split, 1, CPU), split), expected.score(split.test.fold_in))
    assert one.settings() == {"kind": "baseline", "method": "ease", "options": {"l2": 50.0}}


def test_baseline_that_draws_is_drawn_by_the_runs_seed(split):
    one = BaselineContestant(name="p", method="puresvd", options={"factors": 5, "seed": 8})
    assert "seed" not in one.settings()["options"]
    seeds = [one.train(split, s, CPU).recommender.model.config.seed for s in (3, 2**40 + 7)]
    assert seeds == [3, 7]  # the second is what every library takes of it


def test_wrong_options_of_a_baseline():
    with pytest.raises(ConfigError, match="no setting 'l3'"):
        BaselineContestant(name="e", method="ease", options={"l3": 1.0}).config()


def test_saved_is_only_loaded(saved, split):
    assert saved.train(split, 0, CPU).epochs is None
    first, second = (scores(saved.train(split, seed, CPU), split) for seed in (0, 1))
    assert torch.equal(first, second)
    assert set(saved.settings()) == {"kind", "sha256"}
    saved.refuse(split, split_per_seed=False)


def test_saved_is_refused_where_it_may_have_seen_the_test_users(saved, split):
    with pytest.raises(ConfigError, match="may have been trained on them"):
        saved.refuse(split, split_per_seed=True)


def test_saved_with_other_items(saved):
    config = SyntheticConfig(
        n_users=200, n_items=61, n_communities=3, n_niches=2, niche_size=5, mean_history=12
    )
    data = synthetic(config, 1).interactions
    other = coterie.strong_generalization(data, n_validation_users=20, n_test_users=30, rng=0)
    with pytest.raises(DataError, match="not the same ones in the same order"):
        saved.refuse(other, split_per_seed=False)


def test_saved_of_another_split_of_the_same_data(saved, split):
    """It may have been trained on users who are tested here, though it knows the same items."""
    users = split.train.n_users // 2
    swapped = replace(split, train=split.train.rows(np.arange(users)))
    with pytest.raises(DataError, match="may have seen what is to be predicted"):
        saved.refuse(swapped, split_per_seed=False)


def test_saved_that_was_trained_on_all_but_what_is_held_out(saved, split):
    """As for a published pair, where the epoch is chosen first and all is trained on then."""
    fold_in = HeldOut(split.train, split.train)
    saved.refuse(replace(split, train=split.test.fold_in, test=fold_in), split_per_seed=False)


def test_settings_leave_out_name_and_seed_only():
    settings = VaeContestant(name="a", experiment=TINY).settings()
    assert settings["kind"] == "vae"
    assert "seed" not in settings["experiment"]["training"]
    assert settings["experiment"]["training"]["epochs"] == 2
    assert settings["experiment"]["model"]["latent_dim"] == 4


@pytest.mark.parametrize("name", ["a/b", "x y", "é%|$", "multi-vae+pia"])
def test_keys_are_names_of_files(name, tmp_path):
    key = VaeContestant(name=name, experiment=TINY).key
    (tmp_path / f"{key}.json").write_text("{}")
    assert key.isascii()
    assert len(list(tmp_path.iterdir())) == 1


def test_distinct_names_have_distinct_keys():
    names = ["a b", "a%20b", "a+b", "a_b", "A_b", "a/b"]
    keys = {VaeContestant(name=name, experiment=TINY).key for name in names}
    assert len(keys) == len(names)
