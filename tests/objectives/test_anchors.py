from typing import Any

import numpy as np
import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from coterie.data.batches import UserBatch, user_batch
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError
from coterie.models import tables
from coterie.models.tables import ROWS_PER_CHUNK, TableGradients
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives import anchors as anchors_module
from coterie.objectives.anchors import (
    AnchorConfig,
    Anchors,
    items_of,
    popularity_weights,
    read_rows,
    recency_weights,
)
from coterie.objectives.elbo import LossTerms, Objective, ObjectiveConfig
from coterie.objectives.multinomial import OutputWorkspace
from histories import batch_of, interactions_of, random_histories

N_ITEMS, K, DAY = 41, 6, 86_400
HISTORIES = random_histories(16, N_ITEMS, seed=0, longest=20)[1:]
CPU = torch.device("cpu")

KINDS: dict[str, dict[str, Any]] = {
    "free": {},
    "low-rank": {"kind": "low-rank", "rank": 3},
    "decoder-tied": {"kind": "decoder-tied"},
    "encoder-tied": {"kind": "encoder-tied"},
}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "inverse-popularity": {"weighting": "inverse-popularity", "exponent": 0.7},
    "recency": {"weighting": "recency", "half_life_days": 3.0},
    "rating": {"weighting": "rating"},
}


def full_data() -> Interactions:
    """With ratings 1 … 5 and timestamps within ten days."""
    bare, rng = interactions_of(HISTORIES, N_ITEMS), np.random.default_rng(3)
    return Interactions(
        bare.indptr,
        bare.indices,
        bare.user_ids,
        bare.item_ids,
        rng.integers(1, 6, bare.nnz).astype(np.float32),
        10**9 + rng.integers(0, 10 * DAY, bare.nnz),
    )


DATA = full_data()
BATCH = user_batch(DATA, np.arange(DATA.n_users), ("values", "timestamps"))


def network(hidden_dims: tuple[int, ...] = (12,), **more: Any) -> VAE:
    settings = {"hidden_dims": hidden_dims, "latent_dim": K, **more}
    model = VAE(ModelConfig.read(settings), N_ITEMS).initialized(1)
    for parameter in model.parameters():  # livelier than at the start of training
        parameter.data *= 3
    return model


def settings_of(kind: str, weighting: str, n_centroids: int) -> AnchorConfig:
    several = {} if n_centroids == 1 else {"n_centroids": n_centroids, "temperature": 0.8}
    return AnchorConfig.read({**KINDS[kind], **WEIGHTINGS[weighting], **several})


def objective_of(config: AnchorConfig, model: VAE, **more: Any) -> Objective:
    values = {"alignment": {"end": 2.0}, "anchors": config.model_dump(), **more}
    objective = Objective(ObjectiveConfig.read(values), model).initialized(4)
    return objective.prepared(DATA, CPU)


def weights_by_hand(config: AnchorConfig) -> list[list[float]]:
    """The weight of each entry of each user, from the lists."""
    counts = [sum(item in history for history in HISTORIES) for item in range(N_ITEMS)]
    found = []
    for user, history in enumerate(HISTORIES):
        mine = slice(DATA.indptr[user], DATA.indptr[user + 1])
        times, ratings = DATA.timestamps[mine], DATA.values[mine]  # type: ignore[index]
        found.append(
            [
                {
                    "uniform": 1.0,
                    "inverse-popularity": counts[item] ** -config.exponent,
                    "recency": 0.5 ** ((max(times) - time) / (config.half_life_days * DAY)),
                    "rating": float(rating),
                }[config.weighting]
                for item, time, rating in zip(history, times, ratings, strict=True)
            ]
        )
    return found


def by_hand(mu: Tensor, anchors: Anchors, model: VAE) -> Tensor:
    """The pull per user as documented, user by user and item by item, on plain autograd."""
    config = anchors.config
    table = {
        "free": anchors.table,
        "low-rank": anchors.table,
        "decoder-tied": model.decoder.table,
        "encoder-tied": model.encoder.table,
    }[config.kind]
    e = table if anchors.projection is None else table @ anchors.projection
    found = []
    for user, weights in enumerate(weights_by_hand(config)):
        pulls, masses = [], []
        for m in range(config.n_centroids):
            pulled = mass = torch.zeros(())
            for item, weight in zip(HISTORIES[user], weights, strict=True):
                share = torch.ones(())
                if anchors.queries is not None:
                    logits = [K**0.5 * (query @ e[item]) for query in anchors.queries]
                    share = torch.stack(logits).softmax(0)[m]
                mass = mass + weight * share
                pulled = pulled + weight * share * (mu[user] - e[item]).square().sum()
            pulls.append(pulled / mass)
            masses.append(mass)
        if config.n_centroids == 1:
            found.append(pulls[0])
            continue
        total, t = sum(masses), config.temperature
        terms = [
            mass / total * torch.exp(-pulled / t)
            for mass, pulled in zip(masses, pulls, strict=True)
        ]
        found.append(-t * torch.log(torch.stack(terms).sum()))
    return torch.stack(found)


def codes() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(len(HISTORIES), K, generator=generator).requires_grad_()


@pytest.mark.parametrize("n_centroids", [1, 3])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_and_its_gradients_are_the_documented_formula(
    kind: str, weighting: str, n_centroids: int
) -> None:
    model, mu = network(), codes()
    objective = objective_of(settings_of(kind, weighting, n_centroids), model)
    anchors = objective.anchors
    assert anchors is not None
    named = dict([*model.named_parameters(), *anchors.named_parameters(), ("mu", mu)])
    coefficients = torch.linspace(0.5, 2, len(mu))

    def gradients(pulled: Tensor) -> dict[str, Tensor]:
        for parameter in named.values():
            parameter.grad = None
        (pulled * coefficients).sum().backward()
        return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}

    expected = by_hand(mu, anchors, model)
    expected_gradients = gradients(expected)
    found = anchors(mu, model, BATCH, objective._item_weights)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    plain = gradients(found)
    recorded = TableGradients([*model.tables, *objective.tables])
    recorded.start()
    fast = gradients(anchors(mu, model, BATCH, objective._item_weights, recorded))
    for name, table in named.items():
        if table in recorded:
            assert name not in fast, "recorded, and nothing as large as the table"
            fast[name] = torch.cat([rows for _, _, rows in recorded.chunks(table)])
    assert expected_gradients.keys() == plain.keys() <= fast.keys()
    for name, value in fast.items():
        wanted = expected_gradients.get(name, torch.zeros_like(value))
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=f"fast {name}")
    for name, value in plain.items():
        wanted = expected_gradients[name]
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=f"plain {name}")


def terms_of(objective: Objective, model: VAE, **memory: Any) -> LossTerms:
    terms: LossTerms = objective(
        model,
        BATCH,
        step=3,
        steps_per_epoch=10,
        generator=torch.Generator().manual_seed(11),
        **memory,
    )
    return terms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weighting", "n_centroids"), [("rating", 1), ("recency", 2)])
@pytest.mark.parametrize("mask", ["bernoulli", "popularity", "random-rate", "time-block"])
def test_a_training_step_has_the_gradients_of_the_plain_path(
    kind: str, weighting: str, n_centroids: int, mask: str
) -> None:
    """A tied table has the gradients of its own use and of the anchors, in either path."""
    model = network()
    config = settings_of(kind, weighting, n_centroids)
    objective = objective_of(config, model, mask={"kind": mask})
    named = dict([*model.named_parameters(), *objective.named_parameters()])
    recorded = TableGradients([*model.tables, *objective.tables])

    def gradients(**memory: Any) -> dict[str, Tensor]:
        for parameter in named.values():
            parameter.grad = None
        recorded.start()
        terms_of(objective, model, **memory).total.backward()
        return {name: p.grad for name, p in named.items() if p.grad is not None}

    plain = gradients()
    fast = gradients(workspace=OutputWorkspace(), gradients=recorded)
    for name, table in named.items():
        if table in recorded:
            fast[name] = torch.cat([rows for _, _, rows in recorded.chunks(table)])
    assert plain.keys() == fast.keys() == named.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=2e-6, msg=name)


def test_one_centroid_with_even_weights_of_free_anchors_is_pia_as_published() -> None:
    """Bit for bit, and so is the penalty of the general path but for rounding."""
    model, mu = network(), codes()
    assert AnchorConfig().plain
    objective = objective_of(AnchorConfig(), model)
    anchors = objective.anchors
    assert anchors is not None
    assert [name for name, _ in anchors.named_parameters()] == ["table"]
    e = anchors.table
    distances = (mu[:, None] - e).square().sum(2)
    expected = torch.stack(
        [distances[user, history].mean() for user, history in enumerate(HISTORIES)]
    )
    torch.testing.assert_close(anchors(mu, model, BATCH), expected)
    hot = AnchorConfig(n_centroids=4, temperature=1e5)
    several = objective_of(hot, model).anchors
    assert several is not None
    assert several.table is not None
    assert torch.equal(several.table, e), "drawn first"
    torch.testing.assert_close(several(mu, model, BATCH), expected, rtol=1e-4, atol=0.05)


def test_several_centroids_pull_a_user_of_two_tastes_to_one_of_them() -> None:
    """The single centroid lies between the tastes and pulls there; two do not."""
    model = VAE(ModelConfig(hidden_dims=(4,), latent_dim=2), 4).initialized(0)
    batch = batch_of([[0, 1, 2, 3]], 4)
    places = torch.tensor([[3.0, 0.0], [3.0, 0.1], [-3.0, 0.0], [-3.0, 0.1]])
    start, found = torch.tensor([[1.0, 0.0]]), {}
    for n in (1, 2):
        several = {} if n == 1 else {"temperature": 0.5}
        anchors = Anchors(AnchorConfig(n_centroids=n, **several), model)
        assert anchors.table is not None
        anchors.table.data.copy_(places)
        if anchors.queries is not None:
            anchors.queries.data.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        mu = start.clone().requires_grad_()
        for _ in range(200):
            (gradient,) = torch.autograd.grad(anchors(mu, model, batch).sum(), mu)
            mu.data -= 0.1 * gradient
        found[n] = mu.detach()[0]
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.05]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2], torch.tensor([3.0, 0.05]), atol=1e-3, rtol=0)


def test_where_the_widths_agree_a_tied_anchor_is_the_tables_row() -> None:
    model = network(hidden_dims=())
    anchors = Anchors(AnchorConfig(kind="decoder-tied"), model)
    assert list(anchors.parameters()) == []
    assert torch.equal(anchors.whole(model), model.decoder.table.detach())
    assert not anchors.whole(model).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_what_anchors_cost_and_what_they_are_written_out(kind: str) -> None:
    model = network()
    objective = objective_of(settings_of(kind, "uniform", 1), model)
    anchors = objective.anchors
    assert anchors is not None
    sizes = {name: list(p.shape) for name, p in anchors.named_parameters()}
    assert (
        sizes
        == {
            "free": {"table": [N_ITEMS, K]},
            "low-rank": {"table": [N_ITEMS, 3], "projection": [3, K]},
            "decoder-tied": {"projection": [12, K]},
            "encoder-tied": {"projection": [12, K]},
        }[kind]
    )
    assert len(objective.tables) == ("table" in sizes)
    source = anchors.source(model)
    expected = source if anchors.projection is None else source @ anchors.projection
    torch.testing.assert_close(anchors.whole(model), expected.detach())


def test_the_encoders_table_may_be_wider_than_its_layer() -> None:
    prior = {"kind": "hierarchical-vamp", "n_pseudo_inputs": 5}
    model = network((8, 8), name="h-vamp-gated", prior=prior)
    objective = objective_of(AnchorConfig(kind="encoder-tied"), model)
    terms = terms_of(objective, model)
    terms.total.backward()
    assert terms.alignment.isfinite()
    assert objective.anchors is not None
    assert objective.anchors.projection is not None
    assert objective.anchors.projection.shape == (model.encoder.table.shape[1], K)
    assert objective.anchors.projection.grad is not None


@pytest.mark.parametrize("n_items", [ROWS_PER_CHUNK - 1, ROWS_PER_CHUNK, 2 * ROWS_PER_CHUNK + 3])
@pytest.mark.parametrize("in_one_chunk", [False, True])
def test_rows_that_are_read_have_autograds_gradient(
    n_items: int, in_one_chunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_one_chunk:  # as on a GPU
        for module in (tables, anchors_module):
            monkeypatch.setattr(module, "rows_per_chunk", lambda n_rows, device: n_rows)
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(n_items, 3, generator=generator))
    edges = [0, ROWS_PER_CHUNK - 1, ROWS_PER_CHUNK, 2 * ROWS_PER_CHUNK, n_items - 1]
    items = torch.tensor(sorted({item for item in edges if item < n_items}))
    (expected,) = torch.autograd.grad(table[items].sin().sum(), table)
    (plain,) = torch.autograd.grad(read_rows(table, items).sin().sum(), table)
    torch.testing.assert_close(plain, expected)
    gradients = TableGradients([table])
    gradients.start()
    read_rows(table, items, gradients).sin().sum().backward()
    assert table.grad is None
    found = torch.cat([rows for _, _, rows in gradients.chunks(table)])
    torch.testing.assert_close(found, expected)


def test_a_table_that_does_not_learn_is_read_all_the_same() -> None:
    table = torch.nn.Parameter(torch.ones(5, 2), requires_grad=False)
    rows = read_rows(table, torch.tensor([1, 3]))
    assert rows.tolist() == [[1, 1], [1, 1]]
    assert not rows.requires_grad


def test_items_of_a_batch() -> None:
    items, places = items_of(batch_of([[3, 7], [], [0, 3, 8]], 10))
    assert items.tolist() == [0, 3, 7, 8]
    assert places.tolist() == [1, 2, 0, 1, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_centroids", [1, 2])
def test_no_tensor_of_items_times_width_per_user_nor_of_users_times_items(
    kind: str, n_centroids: int
) -> None:
    n_users, n_items = 64, 20_000
    batch = batch_of(random_histories(n_users, n_items, seed=0, longest=100), n_items)
    model = VAE(ModelConfig(hidden_dims=(K,), latent_dim=4), n_items).initialized(0)
    anchors = Anchors(settings_of(kind, "uniform", n_centroids), model)
    mu = torch.zeros(n_users, 4, requires_grad=True)
    with LargestTensor() as largest:
        anchors(mu, model, batch).sum().backward()
    assert anchors.source(model).grad is not None
    assert largest.numel <= n_items * K, "only a table and its gradient are that large"
    assert n_users * n_items > n_items * K


def test_anchors_and_queries_start_with_a_norm_of_about_one() -> None:
    model = VAE(ModelConfig(hidden_dims=(30,), latent_dim=50), 5000)
    for settings in ({}, {"kind": "low-rank", "rank": 20}):
        anchors = Anchors(AnchorConfig(n_centroids=40, **settings), model)
        anchors.reset_parameters(torch.Generator().manual_seed(0))
        assert anchors.whole(model).norm(dim=1).mean().item() == pytest.approx(1, abs=0.15)
        assert anchors.queries is not None
        assert anchors.queries.detach().norm(dim=1).mean().item() == pytest.approx(1, abs=0.05)
        tastes = anchors._tastes(anchors.whole(model))
        torch.testing.assert_close(tastes.sum(1), torch.ones(5000))
        assert tastes.std(1).mean() > 0.2 / 40, "the tastes differ at once"


def test_popularity_weights_fall_with_the_number_of_users() -> None:
    found = popularity_weights(np.array([8, 0, 2, 2, 32]), 0.5)
    np.testing.assert_allclose(found, [0.5, 1, 1, 1, 0.25], rtol=1e-6)
    assert found.dtype == np.float32


def test_recency_counts_from_the_users_own_last_item() -> None:
    times = torch.tensor([0, 30 * DAY, 60 * DAY, 10**9, 10**9 + 15 * DAY, -5 * DAY])
    batch = batch_of([[0, 1, 2], [3, 4], [], [5]], 6)
    batch = UserBatch(batch.indptr, batch.indices, batch.scale, 6, timestamps=times)
    found = recency_weights(batch, 30.0)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5, 1, 2**-0.5, 1, 1]))


# ---- nonsense


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, "rank=8 does nothing: only kind='low-rank'"),
        ({"exponent": 1.0}, "exponent=1.0 does nothing: only weighting='inverse-popularity'"),
        ({"half_life_days": 1.0, "weighting": "rating"}, "only weighting='recency'"),
        ({"temperature": 2.0}, "only n_centroids > 1"),
        ({"n_centroids": 0}, "n_centroids"),
        ({"kind": "tied"}, "kind"),
        ({"weighting": "recency", "half_life_days": 0}, "half_life_days"),
        ({"kind": "low-rank", "rank": 0}, "rank"),
        ({"knid": "free"}, "did you mean 'kind'"),
    ],
)
def test_settings_that_do_nothing_or_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnchorConfig.read(settings)


def test_a_rank_of_k_is_refused() -> None:
    config = AnchorConfig(kind="low-rank", rank=K)
    config.check(K + 1)
    with pytest.raises(ConfigError, match=f"rank below latent_dim={K}, got {K}"):
        config.check(K)


def test_anchors_without_the_pull_of_the_mean_are_refused() -> None:
    values = {"alignment": {"end": 1}, "align_mean": False, "anchors": {"kind": "low-rank"}}
    with pytest.raises(ConfigError, match="Without align_mean there are no anchors"):
        ObjectiveConfig.read(values)


@pytest.mark.parametrize(
    ("anchors", "extras", "missing"),
    [
        ({"weighting": "recency"}, ("timestamps",), "no timestamps"),
        ({"weighting": "rating"}, ("values",), "no ratings"),
    ],
)
def test_data_that_lacks_what_the_weights_need(
    anchors: dict[str, Any], extras: tuple[str, ...], missing: str
) -> None:
    config = ObjectiveConfig.read({"alignment": {"end": 1}, "anchors": anchors})
    assert config.extras == extras
    config.check(DATA)
    with pytest.raises(DataError, match=missing):
        config.check(interactions_of(HISTORIES, N_ITEMS))
    off = ObjectiveConfig.read({"anchors": anchors})
    assert off.extras == ()
    off.check(interactions_of(HISTORIES, N_ITEMS))


@pytest.mark.parametrize("rating", [0.0, -1.0, float("nan")])
def test_ratings_that_are_no_weights(rating: float) -> None:
    config = ObjectiveConfig.read({"alignment": {"end": 1}, "anchors": {"weighting": "rating"}})
    data = full_data()
    assert data.values is not None
    data.values[7] = rating
    with pytest.raises(DataError, match="needs ratings above 0"):
        config.check(data)
