"""Attributions: exact by the slow way, faithful on a trained model, influences by real steps."""

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from coterie.errors import ConfigError, DataError
from coterie.mechanisms.attribution import Attribution, attribution
from coterie.mechanisms.leave_one_out import item_scores
from coterie.mechanisms.measurement import Budget
from coterie.models.vae import VAE, ModelConfig
from coterie.recommender import Recommender
from histories import batch_of, dense_of, interactions_of, random_histories
from training.small_run import experiment, run, small_split

N_ITEMS, N_DRAWS = 12, 4
HISTORIES = random_histories(9, N_ITEMS, seed=3)
MINE, ASKED = [0, 3, 5, 8], [1, 7]
COMMUNITY = interactions_of(HISTORIES, N_ITEMS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str = "multi-vae") -> VAE:
    config = ModelConfig.read({"name": name, "hidden_dims": (7, 5), "latent_dim": 3})
    model = VAE(config, N_ITEMS).initialized(1).eval()
    for weight in model.parameters():
        weight.data *= 3
    return model


@cache
def trained(name: str = "multi-vae") -> Recommender:
    """Enough epochs for the history to matter."""
    settings = experiment(epochs=15, model={"name": name}, pia=0.1 if name == "multi-vae" else 0)
    found = run(settings).recommender
    titles = [f"Title {item}" for item in range(found.n_items)]
    items = pl.DataFrame({"item_id": found.item_ids.ids, "title": titles})
    return Recommender(found.model, found.item_ids, found.item_counts, items=items)


def found(model: VAE, history: list[int] = MINE, **options: object) -> Attribution:
    given: dict[str, object] = {"generator": seeded(), "n_draws": N_DRAWS, **options}
    return attribution(
        model,
        COMMUNITY,
        np.array(history),
        np.array(ASKED),
        **given,  # type: ignore[arg-type]
    )


@torch.no_grad()
def slow_score(model: VAE, history: list[int], item: int) -> float:
    """One history at a time; the competitors are those outside the WHOLE history."""
    logits = model(batch_of([history], N_ITEMS))[0].double()
    others = [i for i in range(N_ITEMS) if i not in MINE]
    return float(logits[item] - torch.logsumexp(logits[others], 0))


@pytest.mark.parametrize("name", ["multi-vae", "multi-dae"])
def test_leave_one_out_is_the_slow_way(name: str) -> None:
    model = tiny(name)
    measured = found(model)
    assert measured.history.tolist() == MINE
    for place, item in enumerate(ASKED):
        whole = slow_score(model, MINE, item)
        assert measured.score[place] == pytest.approx(whole, rel=1e-5)
        assert measured.lift[place] == pytest.approx(whole - slow_score(model, [], item), rel=1e-4)
        for at, left_out in enumerate(MINE):
            rest = [i for i in MINE if i != left_out]
            expected = whole - slow_score(model, rest, item)
            assert measured.contributions[place, at] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_scores_rank_as_the_model_does() -> None:
    model = tiny()
    outside = np.array([i for i in range(N_ITEMS) if i not in MINE])
    scores = item_scores(model, batch_of([MINE], N_ITEMS), np.array(MINE), outside)[0]
    logits = model(batch_of([MINE], N_ITEMS)).detach()[0, outside]
    assert torch.equal(scores.argsort(), logits.argsort())
    assert float(scores.exp().sum()) == pytest.approx(1)


def test_the_only_item_of_a_history_carries_the_whole_lift() -> None:
    measured = found(tiny(), [3])
    np.testing.assert_allclose(measured.contributions[:, 0], measured.lift, atol=1e-7)


@pytest.mark.parametrize("name", ["multi-vae", "multi-dae"])
def test_influence_is_what_a_real_step_does_to_the_log_probability(name: str) -> None:
    model = tiny(name)
    measured = found(model, k=9)
    noise = torch.randn(N_DRAWS, 3, generator=seeded(), dtype=torch.float64).float()

    def codes(history: list[int]) -> torch.Tensor:
        posterior = model.encode(batch_of([history], N_ITEMS))
        if posterior.logvar is None:
            return posterior.mu.detach()
        return (posterior.mu + torch.exp(0.5 * posterior.logvar) * noise).detach()

    weights = list(model.decoder.parameters())
    before, mine = [weight.detach().clone() for weight in weights], codes(MINE)

    def rise(item: int, z: torch.Tensor, target: list[int]) -> float:
        """Of ``E log π_item`` at u's codes, by a small step on the target's loss at codes z."""
        x, values = dense_of([target], N_ITEMS)[0], []
        logits = model.decoder(z)
        loss = (x.sum() * torch.logsumexp(logits, 1) - logits @ x).mean()
        steps = torch.autograd.grad(loss, weights)
        for rate in (0, 1e-4):
            for weight, old, step in zip(weights, before, steps, strict=True):
                weight.data = old - rate * step
            with torch.no_grad():
                values.append(torch.log_softmax(model.decoder(mine).double(), 1)[:, item].mean())
        for weight, old in zip(weights, before, strict=True):
            weight.data = old
        return float(values[1] - values[0])

    checked = 0
    for place, item in enumerate(ASKED):
        near = measured.neighbours.filter(place=place)
        holders = [user for user, items in enumerate(HISTORIES) if item in items]
        assert sorted(near["user_id"]) == holders
        assert measured.n_holders[place] == len(holders)
        own = rise(item, mine, [item])
        for user, influence in near.select("user_id", "influence").iter_rows():
            expected = rise(item, codes(HISTORIES[user]), HISTORIES[user]) / own
            assert influence == pytest.approx(expected, abs=0.03)
            checked += 1
        assert near["influence"].is_sorted(descending=True)
    assert checked >= 6


@cache
def removals(name: str) -> dict[str, np.ndarray]:
    """How far the best item's score falls when three items are removed, 80 held-out users each."""
    model, fold_in = trained(name).model, small_split().test.fold_in
    rng, falls = np.random.default_rng(0), {"named": [], "shuffled": [], "random": [], "least": []}
    for user in np.flatnonzero(fold_in.history_lengths >= 6):
        history = fold_in.row(user).astype(np.int64)
        best = trained(name).recommend([fold_in.item_ids.to_ids(history).to_list()], k=1)
        of = attribution(
            model, small_split().train, history, best.item_index[0], generator=seeded(), n_draws=2
        )
        order = of.top(0, len(history))
        removed = {
            "named": order[:3],
            "shuffled": rng.permutation(of.contributions[0]).argsort()[-3:],
            "random": rng.choice(len(history), 3, replace=False),
            "least": order[-3:],
        }
        for how, places in removed.items():
            rest = np.delete(history, places).tolist()
            batch = batch_of([rest], model.n_items)
            after = item_scores(model, batch, history, best.item_index[0])
            falls[how].append(float(of.score[0] - after[0, 0]))
    return {how: np.array(values) for how, values in falls.items()}


@pytest.mark.parametrize("name", ["multi-vae", "multi-dae"])
def test_removing_the_named_items_lowers_the_score_more_than_others(name: str) -> None:
    falls = removals(name)
    assert len(falls["named"]) >= 40
    for control in ("random", "shuffled", "least"):
        margin = falls["named"] - falls[control]
        error = margin.std(ddof=1) / len(margin) ** 0.5
        assert margin.mean() > 5 * error, control
        assert falls["named"].mean() > 1.5 * max(falls[control].mean(), 0.02), control
    shuffled = falls["shuffled"] - falls["random"]
    error = shuffled.std(ddof=1) / len(shuffled) ** 0.5
    assert abs(shuffled.mean()) < 4 * error, "the control names nothing"


def test_a_small_budget_leaves_out_some_and_says_so() -> None:
    train, model = small_split().train, trained().model
    history = train.row(int(train.history_lengths.argmax())).astype(np.int64)
    asked = np.setdiff1d(np.arange(train.n_items), history)[:2]
    small = attribution(model, train, history, asked, generator=seeded(), budget=Budget(2e-5))
    every = attribution(model, train, history, asked, generator=seeded())
    assert small.sample.used < small.sample.available == len(history)
    assert any("left out in turn" in warning for warning in small.warnings())
    assert every.warnings() == []
    at = np.searchsorted(history, small.history)
    np.testing.assert_allclose(small.contributions, every.contributions[:, at])


def test_an_item_that_nobody_has() -> None:
    nobody = interactions_of([[0, 2], [3]], N_ITEMS)
    measured = attribution(tiny(), nobody, np.array(MINE), np.array(ASKED), generator=seeded(), k=2)
    assert measured.n_holders.tolist() == [0, 0]
    assert len(measured.neighbours_frame()) == 0
    assert "No searched user" in measured.warnings()[0]
    assert "No near training user" in measured.sentence()


def test_bad_input_of_an_attribution() -> None:
    model, mine = tiny(), np.array(MINE)
    for items in (np.array([1, 0]), np.array([1, 1])):
        with pytest.raises(DataError, match="none of the history"):
            attribution(model, COMMUNITY, mine, items, generator=seeded())
    with pytest.raises(DataError, match="item indices 0 … 11"):
        attribution(model, COMMUNITY, mine, np.array([N_ITEMS]), generator=seeded())
    for options in ({"n_draws": 1}, {"k": 0}, {"holders": 0}):
        with pytest.raises(ConfigError, match="Expected n_draws"):
            found(model, **options)
