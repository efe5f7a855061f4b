"""Shared taste by hand and against dense arrays, planted pairs found, and given pairs' scores."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from coterie.data.synthetic import Synthetic, SyntheticConfig, synthetic
from coterie.errors import DataError
from coterie.mechanisms import related as module
from coterie.mechanisms.collaboration import collaboration
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.measurement import Budget, choose_pairs
from coterie.mechanisms.pairs import shared_items
from coterie.mechanisms.related import PairScores, pair_scores, related_pairs, shared_taste, tastes
from coterie.models.vae import VAE, ModelConfig
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import train
from histories import interactions_of
from training.small_run import run, small_split

RATE = 1e-3


@cache
def trained() -> VAE:
    model = run().recommender.model
    assert isinstance(model, VAE)
    return model


def test_weights_are_likelihoods_over_their_mean_by_hand() -> None:
    """A decoder without hidden layers, whose logits are set; every user has the same code."""
    data = interactions_of([[0, 1], [1, 2], [3]], 4)
    model = VAE(ModelConfig(hidden_dims=(), latent_dim=2), 4).initialized(0).eval()
    with torch.no_grad():
        model.encoder.table.zero_()
        model.encoder.bias.zero_()
        model.encoder.bias[:2] = torch.tensor([1.0, 0.0])  # mu
        model.decoder.bias.zero_()
        model.decoder.table.copy_(torch.tensor([[0.0, 0], [1, 0], [2, 0], [3, 0]]))
    same = tastes(model, data, np.arange(3)).toarray()
    root = np.sqrt(0.5)
    assert same == pytest.approx(np.array([[root, root, 0, 0], [0, root, root, 0], [0, 0, 0, 1]]))
    pairs = np.array([[0, 1], [0, 2], [1, 1]])
    of = tastes(model, data, np.arange(3))
    assert shared_taste(of, pairs) == pytest.approx([0.5, 0, 1])


def test_an_item_of_ones_own_counts_more_than_everybodys() -> None:
    """Users 0 and 1 lie at one code, 2 and 3 at another; 0 and 2 share item 0 alone."""
    model = VAE(ModelConfig(hidden_dims=(), latent_dim=2), 4).initialized(0).eval()
    with torch.no_grad():
        model.encoder.table.zero_()
        model.encoder.table[1, 0] = model.encoder.table[2, 1] = 1.0  # item 1 → code 0, 2 → 1
        model.encoder.bias.zero_()
        model.decoder.bias.zero_()
        model.decoder.table.copy_(torch.tensor([[4.0, 4], [3, 0], [0, 3], [0, 0]]))
    data = interactions_of([[0, 1], [0, 1], [0, 2], [0, 2]], 4)
    codes = np.eye(2)[[0, 0, 1, 1]] / np.sqrt(2)  # histories are scaled to length 1
    likely = np.exp(codes @ np.array([[4.0, 3, 0, 0], [4, 0, 3, 0]]))
    likely /= likely.sum(1, keepdims=True)
    weights = (likely / likely.mean(0)) * data.to_scipy().toarray()
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    of = tastes(model, data, np.arange(4))
    assert of.toarray() == pytest.approx(weights, rel=1e-5)
    near, far = shared_taste(of, np.array([[0, 1], [0, 2]]))
    assert near == pytest.approx(1)
    assert far < 0.4 < 0.5  # 0.5 is the cosine of the plain histories


def test_weights_are_the_dense_formula_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = small_split().train, trained()
    users = np.array([3, 5, 8, 100, 200])
    with torch.no_grad():
        logits = model.decoder(encode(model, data, users).mu).double()
    likely = torch.softmax(logits, 1).numpy()
    expected = likely / likely.mean(0) * data.to_scipy()[users].toarray()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert tastes(model, data, users).toarray() == pytest.approx(expected)
    monkeypatch.setattr(module, "DECODED_BYTES", 8 * data.n_items * 2)  # two users at a time
    assert tastes(model, data, users).toarray() == pytest.approx(expected)
    pairs = np.array([[0, 1], [3, 2], [4, 4]])
    dense = (expected[pairs[:, 0]] * expected[pairs[:, 1]]).sum(1)
    assert shared_taste(tastes(model, data, users), pairs) == pytest.approx(dense)


@cache
def planted() -> tuple[Synthetic, VAE]:
    """Masking + PIA on 1 000 users."""
    config = SyntheticConfig(
        n_users=1000, n_items=300, n_communities=6, n_niches=10, mean_history=25
    )
    invented = synthetic(config, 7)
    experiment = Experiment.read(
        {
            "model": {"hidden_dims": [100], "latent_dim": 40},
            "objective": {
                "beta": {"kind": "linear", "end": 0.2, "epochs": 5},
                "alignment": {"end": 1.0},
            },
            "training": {"epochs": 30, "batch_size": 50, "learning_rate": 2e-3, "patience": None},
        }
    )
    context = RunContext(device="cpu", precision="fp32")
    model = train(invented.interactions, None, experiment, context=context).recommender.model
    assert isinstance(model, VAE)
    return invented, model


def auc(score: np.ndarray, of_planted: np.ndarray) -> float:
    above = mannwhitneyu(score[of_planted], score[~of_planted]).statistic
    return float(above / (of_planted.sum() * (~of_planted).sum()))


def far_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Planted pairs and other far ones, int64 ``[P, 2]``, and which are planted."""
    invented, _ = planted()
    data, truth = invented.interactions, invented.truth
    pairs = choose_pairs(data.n_users, 6000, torch.Generator().manual_seed(0))
    shared = shared_items(data, pairs)
    distance = data.history_lengths[pairs].sum(1) - 2 * shared
    other = (shared > 0) & (distance > np.median(distance))
    other &= truth.user_niche[pairs[:, 0]] != truth.user_niche[pairs[:, 1]]
    both = np.concatenate([truth.far_pairs, pairs[other]])
    return both, np.arange(len(both)) < len(truth.far_pairs)


def test_shared_taste_finds_planted_pairs_among_far_ones() -> None:
    """Better than the histories alone, and not by chance."""
    invented, model = planted()
    data = invented.interactions
    pairs, of_planted = far_pairs()
    assert min(of_planted.sum(), (~of_planted).sum()) > 300
    found = auc(shared_taste(tastes(model, data, np.arange(data.n_users)), pairs), of_planted)
    plain = auc(
        shared_items(data, pairs) / np.sqrt(data.history_lengths[pairs].prod(1)), of_planted
    )
    assert found > 0.78
    assert found > plain + 0.1
    mixed = np.random.default_rng(0).permutation(data.n_users)
    of_others = shared_taste(tastes(model, data, mixed), pairs)
    assert abs(auc(of_others, of_planted) - 0.5) < 0.1


def test_training_uses_planted_pairs_more_than_other_far_ones() -> None:
    invented, model = planted()
    pairs, of_planted = far_pairs()
    chosen = np.concatenate([np.flatnonzero(of_planted)[:150], np.flatnonzero(~of_planted)[:150]])
    scores = pair_scores(
        model, invented.interactions, pairs[chosen], learning_rate=RATE,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (scores.own_change < 0).all(), "a step on u itself lowers u's loss"
    ours, theirs = (
        scores.change[part].sum() / scores.own_change[part].sum()
        for part in (slice(0, 150), slice(150, 300))
    )
    assert ours > 1.5 * theirs > 0


def test_related_pairs_show_what_carries_the_score_and_what_sets_apart() -> None:
    data, model = small_split().train, trained()
    result = collaboration(
        model, data, generator=torch.Generator().manual_seed(0), budget=Budget(seconds=0.3)
    )
    users = np.unique(result.pairs.users)
    of, names = tastes(model, data, users), [str(item) for item in range(data.n_items)]
    shown = related_pairs(result.pairs, np.array([5, 2]), of, names)
    assert [(p.user, p.other) for p in shown] == [tuple(result.pairs.users[at]) for at in (5, 2)]
    dense = of.toarray()
    for pair, at in zip(shown, (5, 2), strict=True):
        mine, theirs = (dense[np.searchsorted(users, user)] for user in (pair.user, pair.other))
        assert pair.taste == pytest.approx((mine * theirs).sum())
        assert pair.cosine == result.pairs.gradients.cosine[at]
        for titles, weights in (
            (pair.shared, mine * theirs),
            (pair.of_user, mine * (theirs == 0)),
            (pair.of_other, theirs * (mine == 0)),
        ):
            most = min(4, np.count_nonzero(weights))
            assert list(titles) == [str(item) for item in np.argsort(-weights)[:most]]
    assert related_pairs(result.pairs, np.array([], dtype=np.int64), of, names) == ()


def scored(pairs: np.ndarray) -> PairScores:
    return pair_scores(
        trained(), small_split().train, pairs, learning_rate=RATE,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip


def test_given_pairs_scores_are_the_engines_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = small_split().train, trained()
    pairs = np.random.default_rng(0).integers(0, data.n_users, (40, 2))
    pairs = np.concatenate([pairs, pairs[:1, ::-1], [[5, 5]]])
    once = scored(pairs)
    everyone = np.arange(data.n_users)
    codes = common_noise_codes(encode(model, data, everyone), 8, torch.Generator().manual_seed(2))
    gradients = DecoderGradients(model, data.to_scipy(), codes)
    expected = gradients.pairs(pairs)
    assert once.influence == pytest.approx(expected.influence, rel=1e-5)
    assert once.cosine == pytest.approx(expected.cosine, rel=1e-5)
    change = gradients.changes(pairs, RATE)
    assert once.change == pytest.approx(change, rel=1e-3, abs=1e-6)
    assert once.own_change == pytest.approx(
        gradients.changes(pairs[:, [0, 0]], RATE), rel=1e-3, abs=1e-6
    )
    assert once.change[-1] == once.own_change[-1]
    named, rows = np.unique(pairs, return_inverse=True)
    taste = shared_taste(tastes(model, data, named), rows.reshape(-1, 2))
    assert once.taste == pytest.approx(taste)
    for symmetric in (once.cosine, once.taste):
        assert symmetric[-2] == pytest.approx(symmetric[0])
        assert symmetric[-1] == pytest.approx(1)
    monkeypatch.setattr(module, "SCORED_BYTES", 8 * 8 * data.n_items * 3)  # three pairs at a time
    blocks = scored(pairs)
    assert blocks.influence == pytest.approx(once.influence, rel=1e-6)
    assert blocks.cosine == pytest.approx(once.cosine, rel=1e-6)
    assert blocks.change == pytest.approx(once.change, rel=1e-3, abs=1e-6)
    none = scored(np.empty((0, 2), dtype=np.int64))
    assert len(none.taste) == len(none.influence) == len(none.change) == 0


def test_bad_pairs() -> None:
    n_users, n_items = small_split().train.n_users, small_split().train.n_items
    for pairs, words in (([1, 2], "shape"), ([[0, n_users]], "users 0"), ([[-1, 0]], "users 0")):
        with pytest.raises(DataError, match=words):
            scored(np.array(pairs))
    histories = interactions_of([[0], []], n_items)
    with pytest.raises(DataError, match="without any item"):
        pair_scores(
            trained(), histories, np.array([[0, 1]]), learning_rate=RATE,
            generator=torch.Generator(),
        )  # fmt: skip
