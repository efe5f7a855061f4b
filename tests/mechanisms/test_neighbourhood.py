"""A user's neighbourhood against autograd, real steps, and answers known by construction."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.mechanisms.gradients import jackknife
from coterie.mechanisms.measurement import Budget
from coterie.mechanisms.neighbourhood import Neighbourhood, neighbourhood
from coterie.mechanisms.numbers import percent
from coterie.models.vae import VAE, ModelConfig
from coterie.recommender import Recommender
from histories import batch_of, dense_of, interactions_of, random_histories
from training.small_run import experiment, run, small_split

N_ITEMS, N_DRAWS = 12, 4
HISTORIES = random_histories(9, N_ITEMS, seed=3)
MINE = [0, 3, 5, 8]
COMMUNITY = interactions_of(HISTORIES, N_ITEMS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str = "multi-vae", hidden: tuple[int, ...] = (7, 5)) -> VAE:
    config = ModelConfig.read({"name": name, "hidden_dims": hidden, "latent_dim": 3})
    model = VAE(config, N_ITEMS).initialized(1).eval()
    for weight in model.parameters():  # large weights: gradients that differ, spreads that matter
        weight.data *= 3
    return model


@cache
def trained() -> Recommender:
    return run(experiment(epochs=6)).recommender


def found(model: VAE, community: Interactions = COMMUNITY, **options: object) -> Neighbourhood:
    given: dict[str, object] = {"generator": seeded(), "n_draws": N_DRAWS, **options}
    return neighbourhood(model, community, np.array(MINE), **given)  # type: ignore[arg-type]


def common_noise() -> Tensor:
    """What the measure draws first if it takes all users."""
    return torch.randn(N_DRAWS, 3, generator=seeded(), dtype=torch.float64)


def loss_gradient(model: VAE, codes: Tensor, history: list[int]) -> Tensor:
    """``∇_θ mean_s ℓ(x, z_s)`` over all decoder parameters, by autograd."""
    x = dense_of([history], N_ITEMS)[0]
    logits = model.decoder(codes)
    loss = (x.sum() * torch.logsumexp(logits, 1) - logits @ x).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.decoder.parameters())])


def codes(model: VAE, history: list[int], noise: Tensor) -> Tensor:
    posterior = model.encode(batch_of([history], N_ITEMS))
    if posterior.logvar is None:
        return posterior.mu.detach()
    return (posterior.mu + torch.exp(0.5 * posterior.logvar) * noise.float()).detach()


@pytest.mark.parametrize("name", ["multi-vae", "multi-dae"])
@pytest.mark.parametrize("hidden", [(7, 5), (7,)])
def test_every_figure_is_what_autograd_gives(name: str, hidden: tuple[int, ...]) -> None:
    model = tiny(name, hidden)
    measured = found(model)
    assert sorted(measured.users) == list(range(1, 9)), "all but the user without a history"
    noise = common_noise()  # all users are taken: nothing else is drawn
    mine = codes(model, MINE, noise)
    g_u = loss_gradient(model, mine, MINE)
    for at, user in enumerate(measured.users):
        theirs = codes(model, HISTORIES[user], noise)
        g_v = loss_gradient(model, theirs, HISTORIES[user])
        alike = loss_gradient(model, theirs, MINE)
        expected = {
            "help": g_u @ g_v / g_u.square().sum(),
            "cosine": g_u @ g_v / g_u.norm() / g_v.norm(),
            "latent_mismatch": (g_u - alike).norm() / g_u.norm(),
            "content_mismatch": (alike - g_v).norm() / g_u.norm(),
            "w1": (mine - theirs).norm(dim=1).mean(),
            "n_shared": len(set(MINE) & set(HISTORIES[user])),
        }
        for key, value in expected.items():
            value = float(value)
            assert getattr(measured, key)[at] == pytest.approx(value, rel=2e-3, abs=2e-4), key
    assert measured.gradient_norm == pytest.approx(float(g_u.norm()), rel=1e-4)
    assert (np.diff(measured.help) <= 0).all()


def test_carriers_are_the_shared_items_terms_by_autograd() -> None:
    model = tiny()
    measured, noise = found(model, k=8), common_noise()

    def output_rows(history: list[int]) -> Tensor:
        """Gradient of table and bias, ``[I, H + 1]``."""
        hidden = model.decoder.hidden(codes(model, history, noise)).detach()
        table = torch.cat([model.decoder.table, model.decoder.bias[:, None]], 1).detach()
        table.requires_grad_()
        logits = torch.cat([hidden, torch.ones(len(hidden), 1)], 1) @ table.T
        x = dense_of([history], N_ITEMS)[0]
        loss = (x.sum() * torch.logsumexp(logits, 1) - logits @ x).mean()
        (rows,) = torch.autograd.grad(loss, table)
        return rows

    mine, checked = output_rows(MINE), 0
    for rank, user in enumerate(measured.users, start=1):
        whole = measured.help[rank - 1] * measured.gradient_norm**2
        share = (mine * output_rows(HISTORIES[user])).sum(1).double() / whole
        shared = sorted(set(MINE) & set(HISTORIES[user]))
        assert measured.shared_share[rank - 1] == pytest.approx(
            float(share[shared].sum()), rel=1e-3
        )
        ours = measured.carriers.filter(rank=rank)
        best = sorted((i for i in shared if share[i] > 0), key=lambda i: -share[i])[:3]
        assert ours["item_id"].to_list() == best
        assert ours["share"].to_list() == pytest.approx(share[best].tolist(), rel=1e-3)
        checked += len(best)
    assert checked > 8


def test_help_is_what_a_real_step_does() -> None:
    """The loss's fall by a small step on v, over that of the same step on u."""
    model, noise = tiny(), common_noise()
    measured = found(model)
    mine = codes(model, MINE, noise)
    x = dense_of([MINE], N_ITEMS)[0].double()
    decoder = [weight.detach().clone() for weight in model.decoder.parameters()]

    def loss_after(gradient: Tensor) -> float:
        start = 0
        for weight, old in zip(model.decoder.parameters(), decoder, strict=True):
            part = gradient[start : start + weight.numel()].view_as(weight)
            weight.data = old - 1e-4 * part
            start += weight.numel()
        with torch.no_grad():
            logits = model.decoder(mine).double()
        return float((x.sum() * torch.logsumexp(logits, 1) - logits @ x).mean())

    gradients = [loss_gradient(model, mine, MINE)]
    for user in measured.users:
        theirs = codes(model, HISTORIES[user], noise)
        gradients.append(loss_gradient(model, theirs, HISTORIES[user]))
    before = loss_after(torch.zeros_like(gradients[0]))
    own, *others = [before - loss_after(gradient) for gradient in gradients]
    np.testing.assert_allclose([other / own for other in others], measured.help, atol=0.03)


def test_a_twin_is_inside_the_radius_and_helps_wholly() -> None:
    model = tiny()
    measured = found(model, interactions_of([*HISTORIES, MINE], N_ITEMS))
    twin = int(np.flatnonzero(measured.users == 9)[0])
    assert measured.help[twin] == pytest.approx(1, rel=1e-4)
    assert measured.inside[twin]
    assert measured.certified[twin]
    assert measured.w1[twin] == pytest.approx(0, abs=1e-5)
    assert measured.n_shared[twin] == len(MINE)
    assert measured.help_se[twin] < 1e-4 < measured.help_se.max(), "of a ratio: it is certain"
    assert found(model, interactions_of([*HISTORIES, MINE], N_ITEMS), user=9).users.max() == 8


def test_the_condition_is_sufficient_on_a_trained_model_and_not_vacuous() -> None:
    """Near twins are inside, and whoever is inside or certified has positive help."""
    train, model = small_split().train, trained().model
    lengths = train.history_lengths
    user = int(lengths.argmax())
    row = train.row(user).astype(np.int64)
    near = [row[np.arange(len(row)) != left_out].tolist() for left_out in range(10)]
    rows = [train.row(u).tolist() for u in range(train.n_users)]
    community = interactions_of([*rows, *near], train.n_items)
    found = neighbourhood(model, community, row, user=user, generator=seeded(), shortlist=350)
    flagged = found.inside | found.certified
    assert found.certified.sum() >= 5
    assert (found.help[flagged] > 0).all()
    assert (found.certified | ~found.inside).all(), "inside implies certified"
    assert (found.users[:5] >= train.n_users).all(), "the near twins help most"
    assert (found.w1_low <= found.w1 * 1.05).all()
    assert (found.w1 <= found.w1_high * 1.2).all()
    assert found.warnings() == []


def test_candidates_are_the_nearest_by_distance_and_by_shared_items() -> None:
    train, model = small_split().train, trained().model
    row = train.row(3)
    options = {"user": 3, "k": 3}
    every = neighbourhood(model, train, row, generator=seeded(), shortlist=10_000, **options)
    few = neighbourhood(model, train, row, generator=seeded(), shortlist=20, **options)
    assert len(every.users) == train.n_users - 1
    assert every.sample.used == every.sample.available == train.n_users - 1
    nearest = every.users[np.argsort(every.w1_high, kind="stable")[:8]]
    sharing = every.users[np.lexsort((every.w1_high, -every.n_shared))[:8]]
    assert len(few.users) == 20
    assert set(nearest) | set(sharing) <= set(few.users)


def test_the_jackknife_finds_the_spread_over_draws() -> None:
    """Its mean square over repetitions is the variance that repetitions show."""
    generator = seeded()
    first, other = (torch.randn(2000, 16, 3, generator=generator) + 1 for _ in range(2))
    products = (first @ other.mT).double()
    error = jackknife(products, torch.full((1, 16, 16), 2.0))
    ratio = np.mean(error**2) / float((products.mean((1, 2)) / 2).var())
    assert ratio == pytest.approx(1, abs=0.15)


def test_same_seed_same_result_and_other_seed_within_the_errors() -> None:
    train, model = small_split().train, trained().model
    first, again, other = (
        neighbourhood(model, train, train.row(3), user=3, generator=seeded(seed), n_draws=32)
        for seed in (5, 5, 6)
    )
    assert first.to_frame().equals(again.to_frame())
    assert first.to_dict() == again.to_dict()
    assert not first.to_frame().equals(other.to_frame())
    both = first.to_frame().join(other.to_frame(), on="user_id", suffix="_2")
    apart = (both["help"] - both["help_2"]) / (both["help_se"] ** 2 + both["help_se_2"] ** 2).sqrt()
    assert float((apart.abs() < 3).mean()) > 0.9


def test_a_small_budget_gives_a_smaller_sample_and_says_so() -> None:
    train, model = small_split().train, trained().model
    small = neighbourhood(model, train, train.row(3), generator=seeded(), budget=Budget(2e-5))
    assert small.sample.used < small.sample.available == train.n_users
    assert 1 <= len(small.users) <= small.sample.used
    with pytest.raises(DataError, match="memory budget"):
        neighbourhood(model, train, train.row(3), generator=seeded(), budget=Budget(8, 10))


def test_bad_input() -> None:
    model = tiny()
    for history, message in (
        (np.array([], dtype=np.int64), "nothing to explain"),
        (np.array([0, N_ITEMS]), "item indices 0 … 11"),
        (np.array([0.5]), "float64"),
    ):
        with pytest.raises(DataError, match=message):
            neighbourhood(model, COMMUNITY, history, generator=seeded())
    with pytest.raises(DataError, match="at least 1 users"):
        found(model, interactions_of([[], MINE], N_ITEMS), user=1)
    for options in ({"n_draws": 1}, {"k": 0}, {"shortlist": 0}):
        with pytest.raises(ConfigError, match="Expected n_draws"):
            found(model, **options)
    with pytest.raises(ConfigError, match="items"):
        found(model, interactions_of([[0]], 3))


def test_what_it_says_and_draws() -> None:
    measured = found(tiny(), k=3)
    text = measured.sentence()
    assert f"user {measured.users[0]}" in text
    assert percent(measured.help[0], measured.help_se[0]) in text
    assert set(measured.to_dict()) == {"name", "figures", "sentence", "warnings", "sample"}
    figure = measured.plot()
    bars, cloud = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == [
        str(user) for user in measured.users[:3]
    ]
    assert sum(len(dots.get_offsets()) for dots in cloud.collections) == len(measured.users)
