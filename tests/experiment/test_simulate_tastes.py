"""Whose tastes are known: of invented data by its truth, of a split by what was held out."""

from dataclasses import replace

import numpy as np
import pytest

from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut, Split
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import DataError
from coterie.experiment.simulation.tastes import held_out_tastes, is_invented, planted_tastes

CONFIG = SyntheticConfig(n_users=200, n_items=120, n_communities=4, n_niches=5, mean_history=15)


@pytest.fixture(scope="module")
def invented():
    return synthetic(CONFIG, 4)


@pytest.fixture(scope="module")
def split(invented, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tastes") / "split"
    made = strong_generalization(
        invented.interactions, n_validation_users=30, n_test_users=30, rng=0
    )
    made.save(folder)
    return Split.open(folder)


def test_the_truth_of_invented_data_survives_splitting_and_files(invented, split):
    known = split.test.fold_in
    assert is_invented(known)
    tastes = planted_tastes(known)
    assert len(tastes) == 30
    original = invented.interactions
    for row in range(30):
        ids = known.user_ids.to_ids(np.array([row])).to_list()
        user = int(original.user_ids.to_index(ids)[0])
        law = np.exp(invented.truth.log_probabilities(np.array([user]))[0])
        items = original.item_ids.to_ids(np.array([3, 50, 7])).to_list()
        in_split = known.item_ids.to_index(items) >= 0
        expected = np.where(in_split, law[[3, 50, 7]] / law.max(), 0)
        np.testing.assert_allclose(tastes.relevance(row, items), expected)
        assert tastes.history(row) == known.item_ids.to_ids(known.row(row)).to_list()
    assert tastes.relevance(0, ["nothing of the kind"]).tolist() == [0.0]
    assert len(tastes.relevance(0, [])) == 0


def test_a_generator_leaves_no_seed_and_other_data_is_refused(invented):
    drawn = synthetic(CONFIG, np.random.default_rng(4)).interactions
    assert not is_invented(drawn)
    other = replace(invented.interactions, source={**drawn.source, "seed": 5})
    with pytest.raises(DataError, match="has changed since"):
        planted_tastes(other)


def test_held_out_items_are_liked_and_nothing_else(split):
    part = split.test
    tastes = held_out_tastes(part)
    everything = part.fold_in.item_ids.ids.to_list()
    for row in range(len(tastes)):
        liked = np.flatnonzero(tastes.relevance(row, everything))
        np.testing.assert_array_equal(liked, part.held_out.row(row))
    assert tastes.relevance(0, ["nothing of the kind"]).tolist() == [0.0]


def test_users_without_held_out_items_are_left_out(split):
    part = split.test
    keep = part.held_out.user_of_each() != 0
    tastes = held_out_tastes(HeldOut(part.fold_in, part.held_out.select(keep)))
    assert len(tastes) == 29
    second = part.fold_in.item_ids.to_ids(part.fold_in.row(1)).to_list()
    assert tastes.history(0) == second
    nothing: Interactions = part.held_out.select(np.zeros(part.held_out.nnz, dtype=bool))
    with pytest.raises(DataError, match="nobody likes anything"):
        held_out_tastes(HeldOut(part.fold_in, nothing))
