import sys
from typing import Any

import numpy as np
import pytest
import torch

from coterie.data.interactions import Interactions
from coterie.errors import DivergenceError, MissingExtraError
from coterie.models.baselines import ials
from coterie.models.baselines.ials import Ials, IalsConfig, fit
from histories import batch_of, dense_of, interactions_of, random_histories

N_ITEMS = 40
HISTORIES = random_histories(80, N_ITEMS, seed=11, longest=15)
CONFIG = IalsConfig(factors=6, alpha=7.0, l2=0.8, iterations=4, seed=5)


def silent(done: int, total: int) -> None:
    """Nobody watches."""


def data() -> Interactions:
    return interactions_of(HISTORIES, N_ITEMS)


def the_librarys(config: IalsConfig) -> Any:
    """The library by itself, with its own α."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            alpha=config.alpha,
            regularization=config.l2,
            iterations=config.iterations,
            random_state=config.seed,
        )
        model.fit(csr_matrix(data().to_scipy()), show_progress=False)
    return model


def test_factors_are_the_librarys() -> None:
    np.testing.assert_array_equal(
        fit(data(), CONFIG, silent).factors, the_librarys(CONFIG).item_factors
    )


@pytest.mark.parametrize(("gathered", "systems"), [(1 << 22, 1 << 22), (60, 1 << 22), (10**6, 72)])
@pytest.mark.parametrize("alpha", [1.0, 7.0])
def test_users_never_seen_are_folded_in_as_the_library_does(
    monkeypatch: pytest.MonkeyPatch, gathered: int, systems: int, alpha: float
) -> None:
    from scipy.sparse import csr_matrix

    monkeypatch.setattr(ials, "GATHERED_AT_ONCE", gathered)
    monkeypatch.setattr(ials, "SYSTEMS_AT_ONCE", systems)
    config = IalsConfig.read({**CONFIG.model_dump(), "alpha": alpha})
    model, theirs = fit(data(), config, silent), the_librarys(config)
    asked = random_histories(30, N_ITEMS, seed=2)
    matrix = csr_matrix(dense_of(asked, N_ITEMS).numpy())
    expected = theirs.recalculate_user(np.arange(30), matrix)
    users = model.users(batch_of(asked, N_ITEMS))
    np.testing.assert_allclose(users, expected, rtol=1e-3, atol=1e-5)
    scores = model(batch_of(asked, N_ITEMS))
    np.testing.assert_allclose(scores, expected @ theirs.item_factors.T, rtol=1e-3, atol=1e-4)


def test_a_users_vector_solves_the_weighted_regression() -> None:
    """Equation 4 as it stands, with the diagonal matrix of weights, in float64."""
    model = fit(data(), CONFIG, silent)
    y = model.factors.numpy().astype(np.float64)
    for history in ([3, 8, 21], list(range(N_ITEMS)), []):
        liked = np.isin(np.arange(N_ITEMS), history).astype(np.float64)
        weights = np.diag(1 + (CONFIG.alpha - 1) * liked)
        system = y.T @ weights @ y + CONFIG.l2 * np.eye(6)
        expected = np.linalg.solve(system, y.T @ weights @ liked)
        np.testing.assert_allclose(
            model.users(batch_of([history], N_ITEMS))[0], expected, atol=1e-5
        )


def test_scoring_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ials(CONFIG, N_ITEMS)
    model.factors.normal_(generator=torch.Generator().manual_seed(1))
    torch.matmul(model.factors.T, model.factors, out=model.gram)
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    assert model(batch_of([[1, 2]], N_ITEMS)).isfinite().all()
    with pytest.raises(MissingExtraError, match=r"pip install 'coterie\[ials\]'"):
        fit(data(), CONFIG, silent)


@pytest.mark.parametrize("wrong", ["factors", "gram"])
def test_what_cannot_be_solved_for_is_an_error_and_no_list(wrong: str) -> None:
    model = fit(data(), CONFIG, silent)
    getattr(model, wrong).fill_(torch.nan)
    with pytest.raises(DivergenceError, match=r"not finite, or ials\.l2 is too small"):
        model(batch_of([[1, 2]], N_ITEMS))


def test_factors_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ials, "_train", lambda *_: np.full((N_ITEMS, 6), np.inf, np.float32))
    with pytest.raises(DivergenceError, match=r"raise ials\.l2 or lower ials\.alpha"):
        fit(data(), CONFIG, silent)


def test_every_iteration_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    fit(data(), CONFIG, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
