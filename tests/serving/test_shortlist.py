"""Lists found by the coarse pass are those of float32, whatever the weights are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from served_models import FIRST, N_ITEMS, small_community, small_model
from test_scoring import ask, random_requests, served

from coterie.data.ids import IdMap
from coterie.errors import DivergenceError
from coterie.models.baselines.ease import EaseConfig
from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.ranking import NO_ITEM, TopK, top_k
from coterie.recommender import Recommender
from coterie.serving import shortlist
from coterie.serving.output_layer import OutputLayer
from coterie.serving.scoring import answer
from coterie.serving.shortlist import Shortlist
from coterie.serving.vae_lists import VaeLists

ARCHITECTURES = {
    "multi-vae": {"hidden_dims": (16,), "latent_dim": 8},
    "multi-dae": {"name": "multi-dae", "latent_dim": 8},
    "recvae": {"name": "recvae", "hidden_dims": (16, 16), "latent_dim": 8},
    "h-vamp-gated": {"name": "h-vamp-gated", "hidden_dims": (16, 16), "latent_dim": 8},
}


def drawn(*shape, seed=0, spread=1.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(table, bias, kind=Shortlist):
    return kind(table.numpy(), bias.numpy(), 1)


def exactly(layer, hidden):
    return F.linear(hidden, torch.from_numpy(layer.table), torch.from_numpy(layer.bias))


def found(layer, hidden, k, barred=None):
    """By both passes, with ``barred`` items left out in both ways; and by float32 alone."""
    exact = exactly(layer, hidden)
    excluded, closed = np.empty((0, 2), dtype=np.int64), None
    if barred is not None:
        exact[barred] = -torch.inf
        half = torch.arange(barred.shape[1]) % 2 == 0
        excluded, closed = (barred & half).nonzero().numpy(), (barred & ~half).numpy()
    items, scores = layer.best(hidden.numpy(), np.full(len(hidden), k), excluded, closed=closed)
    return TopK(torch.from_numpy(items), torch.from_numpy(scores)), top_k(exact, k)


@pytest.mark.parametrize("spread", [1e-30, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("width", [1, 7, 200])
def test_no_coarse_score_is_further_off_than_its_bound(spread, width):
    hidden = drawn(9, width, spread=spread)
    hidden[0] = 0
    hidden[1, 0] = 100 * spread  # one large entry takes the others' levels
    layer = made(drawn(500, width, seed=1, spread=0.3), drawn(500, seed=2))
    coarse, error = map(torch.from_numpy, layer.coarse(hidden.numpy()))
    table, bias = torch.from_numpy(layer.table), torch.from_numpy(layer.bias)
    exact = hidden.double() @ table.double().T + bias.double()
    assert ((coarse.double() - exact).abs() <= error).all()
    if spread == 1.0:
        assert (error[2:] < 0.2 * exact[2:].abs().amax(1, keepdim=True)).all()  # it is of use


def test_the_bound_covers_float32s_rounding_where_int8_loses_nothing():
    """Small whole numbers are exact in both; a large bias then takes their last bits."""
    draw = torch.Generator().manual_seed(0)
    table = torch.randint(-127, 128, (500, 200), generator=draw).float()
    hidden = torch.randint(-63, 64, (9, 200), generator=draw).float()
    table[:, 0], hidden[:, 0] = 127, 63
    bias = 1e9 * torch.rand(500, generator=draw)
    coarse, error = map(torch.from_numpy, made(table, bias).coarse(hidden.numpy()))
    exact = hidden.double() @ table.double().T + bias.double()
    off = (coarse.double() - exact).abs()
    assert off.max() > 1
    assert (off <= error).all()


@pytest.mark.parametrize("rows", [1, 6, 70])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 0.1, 1.0])
def test_items_that_int8_cannot_tell_apart_are_told_apart(spread, rows):
    """Rows differ by ``spread`` from one row: no fixed number of candidates would suffice."""
    table = drawn(1, 32) + drawn(3000, 32, seed=1, spread=spread)
    layer = made(table, drawn(3000, seed=2, spread=spread))
    hidden = drawn(rows, 32, seed=3)
    barred = torch.rand(rows, 3000, generator=torch.Generator().manual_seed(4)) < 0.3
    both, float32 = found(layer, hidden, 20, barred)
    torch.testing.assert_close(both.scores, float32.scores, rtol=1e-5, atol=1e-5)
    if spread >= 0.1:  # below, float32's own rounding decides
        assert both.indices.tolist() == float32.indices.tolist()


def test_equal_scores_go_by_the_lower_item():
    table = torch.randint(-2, 3, (4000, 4), generator=torch.Generator().manual_seed(0)).float()
    hidden = torch.tensor([[1.0, -2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 1.0, -1.0]])
    both, float32 = found(made(table, torch.zeros(4000)), hidden, 50)
    assert both.indices.tolist() == float32.indices.tolist()
    assert both.scores.tolist() == float32.scores.tolist()
    assert both.indices[1].tolist() == list(range(50))


def test_lists_are_shorter_where_fewer_items_are_eligible():
    layer = made(drawn(2000, 16), drawn(2000, seed=1))
    barred = torch.ones(3, 2000, dtype=torch.bool)
    barred[0, [5, 7]] = False
    barred[1, :200] = False
    both, float32 = found(layer, drawn(3, 16, seed=2), 30, barred)
    assert both.indices.tolist() == float32.indices.tolist()
    assert (both.indices[0] != NO_ITEM).sum() == 2
    assert (both.indices[2] == NO_ITEM).all()


def test_a_batch_in_which_int8_decides_nothing_takes_two_passes(monkeypatch):
    """Not one per row: flat scores must not stop a server."""
    layer = made(torch.ones(2000, 16), torch.zeros(2000))
    passes, session = [], layer._session

    class Counting:
        def run(self, names, inputs):
            passes.append(len(inputs["given"]))
            return session.run(names, inputs)

    layer._session = Counting()
    both, float32 = found(layer, drawn(40, 16), 30)
    assert both.indices.tolist() == float32.indices.tolist()
    assert passes == [40, 40]


def test_rows_may_ask_for_lists_of_other_lengths():
    layer = made(drawn(1, 16) + drawn(2000, 16, seed=1, spread=1e-3), torch.zeros(2000))
    hidden, k = drawn(3, 16, seed=2), np.array([1, 30, 7])
    items, scores = layer.best(hidden.numpy(), k, np.empty((0, 2), dtype=np.int64))
    exact = top_k(exactly(layer, hidden), 30)
    assert items.shape == scores.shape == (3, 30)
    for row, length in enumerate(k):
        assert items[row, :length].tolist() == exact.indices[row, :length].tolist()


@pytest.mark.parametrize(
    ("kind", "where"),
    [(Shortlist, "hidden"), *((OutputLayer, part) for part in ("hidden", "table", "bias"))],
)
def test_a_diverged_model_is_refused_as_by_float32(kind, where):
    hidden, table, bias = drawn(2, 16), drawn(2000, 16), torch.zeros(2000)
    {"hidden": hidden[1], "table": table[11], "bias": bias}[where][3] = torch.nan
    with pytest.raises(DivergenceError):
        made(table, bias, kind).best(
            hidden.numpy(), np.array([5, 5]), np.empty((0, 2), dtype=np.int64)
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mixed_batch_equals_the_library_one_by_one(architecture, monkeypatch):
    monkeypatch.setattr(shortlist, "LEAST_WORK", 0)
    monkeypatch.setattr(shortlist, "EXTRA", 1)  # so that few items leave some out
    config = ModelConfig(**ARCHITECTURES[architecture])
    ids = IdMap(range(FIRST, FIRST + N_ITEMS))
    model = Recommender(VAE(config, N_ITEMS).initialized(1), ids, np.arange(N_ITEMS, 0, -1))
    ours = served(model)
    assert ours.lists.short is not None
    requests = list(random_requests(np.random.default_rng(6), 80))
    keys = ("k", "deny", "allow", "exclude_seen")
    asks = [ask(ours, one["histories"][0], **{key: one[key] for key in keys}) for one in requests]
    for one, best in zip(requests, answer(asks), strict=True):
        expected = model.recommend(**one)
        there = expected.item_index[0] >= 0
        assert best.index == expected.item_index[0][there].tolist()
        assert best.scores == pytest.approx(expected.scores[0][there].tolist(), rel=1e-4, abs=1e-5)
        assert best.fallback == expected.fallback[0]


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_there_is_none_without_a_bound(value, monkeypatch):
    monkeypatch.setattr(shortlist, "LEAST_WORK", 0)
    for part in ("table", "bias"):
        model = small_model().model
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        assert VaeLists.of(model.config, weights, N_ITEMS, 1).short is not None
        weights[f"decoder.{part}"][3] = value
        assert VaeLists.of(model.config, weights, N_ITEMS, 1).short is None


def test_it_is_used_where_it_pays_and_nowhere_else(monkeypatch):
    assert served(small_model()).lists.short is None  # a product of 60 columns is nothing to save
    monkeypatch.setattr(shortlist, "LEAST_WORK", 10)
    model = served(small_model())
    assert model.lists.short.pays(10)  # 60 x 16 weights for 84 candidates
    assert not model.lists.short.pays(20)
    baseline = Recommender.fit(EaseConfig(l2=1.0), small_community())
    assert served(baseline).lists is None
    used = []
    best = Shortlist.best
    monkeypatch.setattr(
        Shortlist,
        "best",
        lambda self, sums, k, *rest, **more: (
            used.append(k.tolist()) or best(self, sums, k, *rest, **more)
        ),
    )
    answer([ask(model, [FIRST], 10), ask(model, [FIRST], 20), ask(model, [], 5)])
    assert used == [[10]]
