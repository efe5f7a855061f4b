"""Nearest users against brute force, with ties, offsets and bounded memory."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.errors import ConfigError, DataError
from coterie.mechanisms import neighbours as module
from coterie.mechanisms.distances import deviations, pick
from coterie.mechanisms.neighbours import nearest_codes, nearest_users
from coterie.models.posterior import Posterior


def gaussians(n: int, k: int, seed: int, *, spread: float = 0.5) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(n, k, generator=generator)
    return Posterior(mu, spread * torch.randn(n, k, generator=generator) - 1)


def brute_force(posterior: Posterior, k: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([posterior.mu.numpy(), deviations(posterior).numpy()], 1).astype(float)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize(("n", "dims"), [(70, 3), (150, 40)])
@pytest.mark.parametrize("k", [1, 7, 69])
@pytest.mark.parametrize("block", [1, 16, 1000])
def test_nearest_users_are_those_of_brute_force(
    n: int, dims: int, k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 32)
    posterior = gaussians(n, dims, seed=n)
    found = nearest_users(posterior, k, block=block)
    order, distances = brute_force(posterior, k)
    assert found.indices.dtype == torch.int64
    np.testing.assert_array_equal(found.indices.numpy(), order)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12)


@pytest.mark.parametrize("dims", [2, 40])
def test_ties_go_to_the_lower_index_even_among_many(
    dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 32)
    few = gaussians(3, dims, seed=0)
    posterior = pick(few, np.arange(120) % 3)  # 40 equal users each: more than spare ones
    found = nearest_users(posterior, 5, block=50)
    for user in range(120):
        equal = [other for other in range(user % 3, 120, 3) if other != user]
        assert found.indices[user].tolist() == equal[:5]
    assert not found.distances.any()


def test_a_common_offset_does_not_hide_small_differences() -> None:
    """In float32, products of points near 1000 would round the distances away."""
    posterior = gaussians(300, 40, seed=1)
    shifted = Posterior((posterior.mu * 2**-7 + 1000), posterior.logvar - 12)
    found = nearest_users(shifted, 6)
    np.testing.assert_array_equal(found.indices.numpy(), brute_force(shifted, 6)[0])


class _Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_no_tensor_is_larger_than_the_points_or_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 2048)
    n, dims, block = 3000, 4, 16
    with _Largest() as largest:
        found = nearest_users(gaussians(n, dims, seed=2), 3, block=block)
    assert found.indices.shape == (n, 3)
    assert largest.numel <= max(block * 2048, n * 2 * dims)
    assert largest.numel < n * n / 250


def test_what_nearest_users_refuses() -> None:
    posterior = gaussians(5, 2, 0)
    for k in (0, 5):
        with pytest.raises(ConfigError, match=r"k must be 1 … 4 for 5 users"):
            nearest_users(posterior, k)
    with pytest.raises(ConfigError, match="block"):
        nearest_users(posterior, 2, block=0)
    posterior.mu[3, 1] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        nearest_users(posterior, 2)


def test_nearest_codes_are_brute_force_and_never_oneself() -> None:
    codes = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 100
    )  # far from the origin
    distance = torch.cdist(codes.double(), codes.double()).fill_diagonal_(torch.inf)
    expected = distance.argsort(dim=1)[:, :5].sort(dim=1).values.numpy()
    np.testing.assert_array_equal(np.sort(nearest_codes(codes, 5), axis=1), expected)
    assert (nearest_codes(torch.ones(4, 2), 3) != np.arange(4)[:, None]).all()
