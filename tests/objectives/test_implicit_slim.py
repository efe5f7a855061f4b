from typing import Any

import numpy as np
import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError
from coterie.models.vae import VAE, ModelConfig
from coterie.objectives import implicit_slim as module
from coterie.objectives.implicit_slim import (
    ImplicitSlimConfig,
    gram_product,
    implicit_slim,
    replace_tables,
)
from histories import dense_of, interactions_of, random_histories

N_ITEMS, H = 23, 4
HISTORIES = random_histories(60, N_ITEMS, seed=0, longest=9)
DATA = interactions_of(HISTORIES, N_ITEMS)
X = dense_of(HISTORIES, N_ITEMS).double().numpy()


def table_of(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(N_ITEMS, H, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pieces(l2: float) -> tuple[np.ndarray, np.ndarray]:
    """``C`` and ``1 − B = C⁻¹ D⁻¹``, dense."""
    gram = X.T @ X + l2 * np.eye(N_ITEMS)
    return gram, np.linalg.inv(gram) @ np.diag(np.diag(gram))


def known_vectors(table: Tensor, min_users: int) -> np.ndarray:
    vectors = table.numpy().T.copy()
    vectors[:, X.sum(0) < min_users] = 0
    return vectors


@pytest.mark.parametrize("min_users", [0, 12])
@pytest.mark.parametrize(("l2", "alpha"), [(1.0, 1.0), (50.0, 0.02), (0.3, 30.0)])
def test_it_is_the_dense_closed_form(l2: float, alpha: float, min_users: int) -> None:
    """``V = α W AᵀA ((1 − B)(1 − B)ᵀ + α AᵀA)⁻¹`` with matrices of items times items."""
    table = table_of()
    _, one_less_b = pieces(l2)
    a = known_vectors(table, min_users)
    assert (min_users == 0) == bool(np.abs(a).min(1).all())
    inner = one_less_b @ one_less_b.T + alpha * a.T @ a
    expected = alpha * table.numpy().T @ a.T @ a @ np.linalg.inv(inner)
    found = implicit_slim(table, DATA, l2=l2, alpha=alpha, min_users=min_users)
    np.testing.assert_allclose(found.numpy().T, expected, rtol=1e-7, atol=1e-9)
    single = implicit_slim(table.float(), DATA, l2=l2, alpha=alpha, min_users=min_users)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("min_users", [0, 12])
def test_it_is_the_minimum(min_users: int) -> None:
    """Autograd on the objective as written finds no gradient there, and more loss elsewhere."""
    table, l2, alpha = table_of(), 2.0, 0.5
    _, one_less_b = pieces(l2)
    b = torch.from_numpy(one_less_b)
    a = torch.from_numpy(known_vectors(table, min_users))

    def loss(v: Tensor) -> Tensor:
        return (v @ b).square().sum() + alpha * ((v - table.T) @ a.T).square().sum()

    found = implicit_slim(table, DATA, l2=l2, alpha=alpha, min_users=min_users)
    v = found.T.contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(v), v)
    assert gradient.abs().max() < 1e-8 * loss(table.T).item()
    for seed in range(5):
        step = 0.01 * table_of(seed + 1).T
        assert loss(v + step) > loss(v)


def test_the_diagonal_is_eases_where_items_are_rarely_seen_together() -> None:
    """With D exact, ``1 − B`` is EASE's: zero diagonal of B, and ``B = 1 − P / diag P``."""
    gram, one_less_b = pieces(l2=1e4)
    p = np.linalg.inv(gram)
    ease = p / np.diag(p)
    np.testing.assert_allclose(one_less_b, ease, atol=1e-4)
    np.testing.assert_allclose(np.diag(ease), 1)


def test_large_alpha_keeps_what_was_there_along_the_vectors() -> None:
    table = table_of()
    found = implicit_slim(table, DATA, l2=1.0, alpha=1e8, min_users=0)
    torch.testing.assert_close(found.T @ table, table.T @ table, rtol=1e-5, atol=1e-5)


def test_an_item_that_nobody_has_is_at_zero_and_items_seen_together_come_together() -> None:
    histories = [[0, 1]] * 30 + [[2, 3]] * 30 + [[0, 1, 2, 3]] * 2
    data = interactions_of(histories, 5)
    table = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = implicit_slim(table, data, l2=1.0, alpha=1.0, min_users=1)
    assert found[4].abs().max() == 0
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found[0], found[1], dim=0) > 0.999
    assert cosine(found[2], found[3], dim=0) > 0.999
    assert cosine(table[0], table[1], dim=0) < 0.9, "they were apart"


@pytest.mark.parametrize("users_at_once", [1, 7, 60, 1000])
def test_users_come_in_blocks(monkeypatch: pytest.MonkeyPatch, users_at_once: int) -> None:
    monkeypatch.setattr(module, "USERS_AT_ONCE", users_at_once)
    found = gram_product(DATA, table_of())
    np.testing.assert_allclose(found.numpy(), X.T @ X @ table_of().numpy(), rtol=1e-12)


def test_no_matrix_of_items_times_items() -> None:
    n_items = 3000
    data = interactions_of(random_histories(50, n_items, seed=0, longest=40), n_items)
    table = torch.randn(n_items, 8, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        implicit_slim(table, data, l2=10.0, alpha=1.0, min_users=1)
    assert largest.numel == n_items * 8


@pytest.mark.parametrize("tables", ["both", "encoder", "decoder"])
def test_tables_are_replaced_in_place_and_nothing_else_is(tables: str) -> None:
    model = VAE(ModelConfig(hidden_dims=(H,), latent_dim=3), N_ITEMS).initialized(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = [table.data_ptr() for table in model.tables]
    config = ImplicitSlimConfig(initial=True, tables=tables, l2=5.0, alpha=2.0, min_users=3)
    replace_tables(model, DATA, config)
    assert [table.data_ptr() for table in model.tables] == places
    for name, value in model.state_dict().items():
        part, _, kind = name.partition(".")
        if kind == "table" and tables in ("both", part):
            expected = implicit_slim(before[name], DATA, l2=5.0, alpha=2.0, min_users=3)
            assert torch.equal(value, expected)
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name])


def test_when_it_is_due() -> None:
    def epochs(per_set: int = 1, **settings: Any) -> list[int]:
        config = ImplicitSlimConfig(**settings)
        return [epoch for epoch in range(13) if config.due(epoch, per_set)]

    assert epochs() == []
    assert epochs(initial=True) == [0]
    assert epochs(every=5) == [5, 10]
    assert epochs(every=1, per_set=4) == [4, 8, 12]
    assert epochs(initial=True, every=2, per_set=3) == [0, 6, 12]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": 10.0}, "l2=10.0 does nothing: only initial=true or every"),
        ({"tables": "encoder"}, "tables='encoder' does nothing"),
        ({"every": 0}, "every"),
        ({"initial": True, "alpha": 0}, "alpha"),
        ({"initial": True, "min_users": -1}, "min_users"),
        ({"evry": 1}, "did you mean 'every'"),
    ],
)
def test_settings_that_do_nothing_or_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImplicitSlimConfig.read(settings)


def test_data_without_interactions_gives_zeros() -> None:
    nobody: Interactions = interactions_of([[], []], N_ITEMS)
    found = implicit_slim(table_of(), nobody, l2=1.0, alpha=1.0, min_users=1)
    assert not found.any()
