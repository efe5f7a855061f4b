import numpy as np
import pytest

from coterie.data.interactions import Interactions
from coterie.data.splits import strong_generalization
from coterie.data.synthetic import Synthetic, SyntheticConfig, synthetic
from coterie.errors import ConfigError


@pytest.fixture(scope="module")
def demo() -> Synthetic:
    return synthetic(SyntheticConfig(), 0)


def histories(data: Interactions) -> list[set[int]]:
    return [set(data.row(user).tolist()) for user in range(data.n_users)]


def test_the_default_has_the_promised_size_and_skew(demo: Synthetic) -> None:
    data = demo.interactions.check()
    assert (data.n_users, data.n_items) == (3_000, 800)
    assert data.history_lengths.min() >= 5
    assert data.history_lengths.mean() == pytest.approx(40, rel=0.05)
    counts = np.sort(data.item_counts())[::-1]
    assert counts[-1] > 0
    assert counts[:80].sum() > 0.25 * data.nnz, "a tenth of the items takes over a quarter"
    assert data.timestamps is not None
    assert data.source["synthetic"]["n_users"] == 3_000


def test_titles_are_distinct_and_genres_name_the_communities(demo: Synthetic) -> None:
    table, truth = demo.interactions.items, demo.truth
    assert table is not None
    assert table["title"].n_unique() == len(table) == 800
    assert table["item_id"].to_list()[:2] == ["i0001", "i0002"]
    assert table["item_id"].to_list() == demo.interactions.item_ids.ids.to_list()
    genre = table["genres"].str.split("|").list.first().to_numpy()
    for community in range(12):
        assert len(set(genre[truth.item_community == community])) == 1
    assert len(set(genre)) == 12
    themed = table["genres"].str.contains("|", literal=True).to_numpy()
    np.testing.assert_array_equal(themed, truth.item_niche >= 0)


def test_the_same_seed_gives_the_same_data_and_another_seed_another() -> None:
    config = SyntheticConfig(n_users=200, n_items=300, n_communities=6, n_niches=10)
    first = synthetic(config, 5)
    again = synthetic(config, np.random.default_rng(5))
    assert first.interactions.to_frame().equals(again.interactions.to_frame())
    np.testing.assert_array_equal(first.truth.far_pairs, again.truth.far_pairs)
    other = synthetic(config, 6)
    assert not first.interactions.to_frame().equals(other.interactions.to_frame())


def test_blocks_of_users_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.data.synthetic.USERS_PER_BLOCK", 7)
    config = SyntheticConfig(n_users=100, n_items=300, n_communities=6, n_niches=10)
    data = synthetic(config, 0).interactions.check()
    assert data.n_users == 100
    assert data.history_lengths.min() >= 5


def test_log_probabilities_are_a_law_and_match_the_draws() -> None:
    config = SyntheticConfig(  # one draw per user: no repeats, so the law of a draw is the truth's
        n_users=40_000,
        n_items=40,
        n_communities=4,
        n_niches=2,
        mean_history=1,
        min_history=1,
        history_sigma=0,
        n_pairs=0,
    )
    made = synthetic(config, 1)
    assert made.interactions.history_lengths.max() == 1
    users = np.arange(40_000)
    law = np.exp(made.truth.log_probabilities(users))
    np.testing.assert_allclose(law.sum(axis=1), 1)
    for niche in (0, 1):  # among the users with this taste: expected and observed item counts
        for main in range(4):
            group = (made.truth.user_main == main) & (made.truth.user_niche == niche)
            expected = law[group].sum(axis=0)
            observed = made.interactions.rows(np.flatnonzero(group)).item_counts()
            chi_square = np.sum((observed - expected) ** 2 / expected)
            assert chi_square < 39 + 5 * np.sqrt(2 * 39)


def test_far_pairs_are_far_yet_related(demo: Synthetic) -> None:
    data, truth = demo.interactions, demo.truth
    rows = histories(data)
    rng = np.random.default_rng(0)
    some = rng.integers(0, data.n_users, (4_000, 2))
    distances = [len(rows[u] ^ rows[v]) for u, v in some if u != v]
    median = np.median(distances)
    assert len(truth.far_pairs) == 500
    assert len({tuple(pair) for pair in truth.far_pairs.tolist()}) == 500
    for u, v in truth.far_pairs:
        shared = rows[u] & rows[v]
        assert any(truth.item_niche[item] == truth.user_niche[u] for item in shared)
        assert truth.user_niche[u] == truth.user_niche[v]
        assert not {truth.user_main[u], truth.user_side[u]} & {
            truth.user_main[v],
            truth.user_side[v],
        }
        assert len(rows[u] ^ rows[v]) > 0.95 * median  # two samples' medians differ a little
    assert np.mean([len(rows[u] ^ rows[v]) > median for u, v in truth.far_pairs]) > 0.95


def test_far_pairs_share_more_taste_than_strangers_do(demo: Synthetic) -> None:
    truth = demo.truth

    def affinity(pairs: np.ndarray) -> float:
        left, right = (np.exp(truth.log_probabilities(users) / 2) for users in pairs.T)
        return float(np.mean(np.sum(left * right, axis=1)))  # Bhattacharyya: 1 = the same taste

    users = np.random.default_rng(1).integers(0, 3_000, (20_000, 2))
    u, v = users.T
    strangers = (
        (truth.user_niche[u] != truth.user_niche[v])
        & (truth.user_main[u] != truth.user_main[v])
        & (truth.user_side[u] != truth.user_side[v])
        & (truth.user_main[u] != truth.user_side[v])
        & (truth.user_side[u] != truth.user_main[v])
    )
    stranger = affinity(users[strangers][:500])
    far, near = affinity(truth.far_pairs), affinity(truth.near_pairs)
    assert stranger + 0.05 < far < near


def test_near_pairs_are_near(demo: Synthetic) -> None:
    data, truth = demo.interactions, demo.truth
    rows = histories(data)
    some = np.random.default_rng(2).integers(0, data.n_users, (4_000, 2))
    distances = np.array([len(rows[u] ^ rows[v]) for u, v in some if u != v])
    assert len(truth.near_pairs) >= 300
    for u, v in truth.near_pairs:
        assert truth.user_main[u] == truth.user_main[v]
        assert len(rows[u] ^ rows[v]) <= np.quantile(distances, 0.08)


def test_a_scorer_that_knows_or_learns_the_communities_beats_popularity(demo: Synthetic) -> None:
    data, truth = demo.interactions, demo.truth
    split = strong_generalization(data, n_validation_users=100, n_test_users=400, rng=0)
    assert split.train.n_items == 800, "every item occurs in training: indices stay the truth's"
    test = split.test
    rows = data.user_ids.to_index(test.fold_in.user_ids.ids)
    train = split.train.to_scipy().toarray()
    seen, wanted = test.fold_in.to_scipy().toarray() > 0, test.held_out.to_scipy().toarray() > 0
    counts = train.sum(axis=0)
    cosine = (train.T @ train) / np.sqrt(np.outer(counts, counts))
    np.fill_diagonal(cosine, 0)
    scores = {
        "popularity": np.broadcast_to(counts, seen.shape).astype(float),
        "neighbours": seen @ cosine,
        "truth": truth.log_probabilities(rows),
    }
    recall = {}
    for name, score in scores.items():
        best = np.argsort(np.where(seen, np.inf, -score), axis=1)[:, :20]
        hits = np.take_along_axis(wanted, best, axis=1).sum(axis=1)
        recall[name] = np.mean((hits / wanted.sum(axis=1).clip(1))[wanted.any(axis=1)])
    assert recall["neighbours"] > 1.3 * recall["popularity"]
    assert recall["truth"] > 1.8 * recall["popularity"]
    assert recall["truth"] > recall["neighbours"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"main_share": 0.9}, "must be below 1"),
        ({"niche_size": 40}, "at most half of n_items"),
        ({"n_communities": 400}, "4 items each"),
        ({"mean_history": 300.0}, "a quarter of n_items"),
        ({"n_user": 5}, "did you mean 'n_users'"),
        ({"n_users": 1}, "SyntheticConfig.n_users"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticConfig.read(settings)
