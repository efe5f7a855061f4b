import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import ConfigError, DivergenceError
from coterie.ranking import exclude_, top_k


def by_sorting(scores: torch.Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    indices, best = [], []
    for row in scores.float().tolist():
        ranked = sorted((-score, item) for item, score in enumerate(row) if score > -np.inf)[:k]
        missing = k - len(ranked)
        indices.append([item for _, item in ranked] + [-1] * missing)
        best.append([-score for score, _ in ranked] + [-np.inf] * missing)
    return indices, best


def agree(scores: torch.Tensor, k: int) -> None:
    before = scores.clone()
    found = top_k(scores, k)
    indices, best = by_sorting(scores, k)
    assert found.indices.tolist() == indices
    assert found.scores.tolist() == best
    assert (found.indices.dtype, found.scores.dtype) == (torch.int64, torch.float32)
    assert torch.equal(scores, before), "the scores are not to be changed"


VALUES = st.sampled_from([-np.inf, -2.5, -1.0, -0.0, 0.0, 1e-40, 1.0, 1.5, 3e38, np.inf])


@given(
    st.integers(1, 3).flatmap(
        lambda b: st.integers(1, 150).flatmap(
            lambda i: st.lists(st.lists(VALUES, min_size=i, max_size=i), min_size=b, max_size=b)
        )
    ),
    st.integers(1, 12),
)
@settings(max_examples=150, deadline=None)
def test_top_k_is_a_stable_sort_with_many_ties(rows: list[list[float]], k: int) -> None:
    agree(torch.tensor(rows, dtype=torch.float32), k)


@given(
    seed=st.integers(0, 10_000),
    n_items=st.integers(1, 3000),
    k=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 5, 100, 10**7]),
    excluded=st.sampled_from([0.0, 0.5, 0.999]),
)
@settings(max_examples=120, deadline=None)
def test_top_k_is_a_stable_sort_at_every_size(
    seed: int, n_items: int, k: int, levels: int, excluded: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, (4, n_items)) / levels - 0.5).astype(np.float32)
    scores[rng.random(scores.shape) < excluded] = -np.inf
    agree(torch.from_numpy(scores), k)


@pytest.mark.parametrize("n_items", [640, 2560, 8000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_type_and_layout_ranks_alike(n_items: int, dtype: torch.dtype) -> None:
    wide = torch.randn(n_items, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    agree(wide.T, 20)  # a transposed view
    agree(wide.T[::2], 20)  # every other row
    agree(wide.T.contiguous()[:, 3:], 20)


def test_all_scores_equal_gives_the_first_items() -> None:
    for n_items in (5, 500, 5000):
        assert top_k(torch.zeros(2, n_items), 4).indices.tolist() == [[0, 1, 2, 3]] * 2


def test_too_few_items_fill_up_with_minus_one() -> None:
    scores = torch.full((2, 4000), -torch.inf)
    scores[1, 3999] = -7.0
    found = top_k(scores, 3)
    assert found.indices.tolist() == [[-1, -1, -1], [3999, -1, -1]]
    assert found.scores.tolist() == [[-np.inf] * 3, [-7.0, -np.inf, -np.inf]]
    assert top_k(torch.tensor([[1.0, 2.0]]), 3).indices.tolist() == [[1, 0, -1]]
    assert top_k(torch.empty(2, 0), 2).indices.tolist() == [[-1, -1]] * 2
    assert top_k(torch.empty(0, 4000), 2).indices.shape == (0, 2)


@pytest.mark.parametrize("column", [0, 30, 4000])
@pytest.mark.parametrize("n_items", [40, 4001])
def test_nan_is_an_error_wherever_it_stands(column: int, n_items: int) -> None:
    scores = torch.zeros(3, n_items)
    scores[1, min(column, n_items - 1)] = torch.nan
    with pytest.raises(DivergenceError, match="1 of 3 rows of scores hold NaN"):
        top_k(scores, 5)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="k must be 1 or more, got 0"):
        top_k(torch.zeros(1, 3), 0)
    with pytest.raises(ConfigError, match=r"got torch.float64 \[1, 3\]"):
        top_k(torch.zeros(1, 3, dtype=torch.float64), 1)
    with pytest.raises(ConfigError, match=r"\[B, I\], got torch.float32 \[3\]"):
        top_k(torch.zeros(3), 1)
    with pytest.raises(ConfigError, match="3 rows of scores but 1 histories"):
        exclude_(torch.zeros(3, 3), np.array([0, 1]), np.array([0]))


def test_exclude_sets_the_history_and_nothing_else() -> None:
    scores = torch.arange(12.0).reshape(3, 4)
    same = exclude_(scores, np.array([0, 2, 2, 3]), np.array([0, 3, 1], dtype=np.int32))
    assert same is scores
    inf = np.inf
    assert scores.tolist() == [[-inf, 1, 2, -inf], [4, 5, 6, 7], [8, -inf, 10, 11]]


@pytest.mark.gpu
def test_the_accelerator_ranks_as_the_cpu_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    scores = torch.randint(0, 50, (64, 20_000)).float()
    here, there = top_k(scores, 100), top_k(scores.cuda(), 100)
    assert torch.equal(here.indices, there.indices.cpu())
    assert torch.equal(here.scores, there.scores.cpu())
