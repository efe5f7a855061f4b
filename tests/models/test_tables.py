import pytest
import torch
from torch import Tensor, nn

from coterie.models.tables import ROWS_PER_CHUNK, GradientBuffers, row_sums, store_gradient
from histories import batch_of, dense_of, random_histories

SIZES = [5, ROWS_PER_CHUNK, ROWS_PER_CHUNK + 1, 2 * ROWS_PER_CHUNK + 7]


def table_of(n_items: int, width: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(n_items, width, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("n_items", SIZES)
@pytest.mark.parametrize("width", [1, 6])
def test_row_sums_and_gradient_are_the_dense_product(n_items: int, width: int) -> None:
    histories = random_histories(9, n_items, seed=n_items, longest=min(n_items, 300))
    batch, dense = batch_of(histories, n_items), dense_of(histories, n_items)
    table = table_of(n_items, width)
    weights = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    sums = row_sums(table, batch)
    (sums * weights).sum().backward()
    expected = table.detach().clone().requires_grad_()
    product = dense @ expected
    (product * weights).sum().backward()
    torch.testing.assert_close(sums, product, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(table.grad, expected.grad, rtol=1e-5, atol=1e-5)


def test_the_gradient_in_double_precision_by_finite_differences() -> None:
    batch = batch_of(random_histories(4, 7, seed=2), 7)
    table = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weights: row_sums(weights, batch), (table,))


def test_an_empty_history_sums_to_zero() -> None:
    sums = row_sums(table_of(4, 2), batch_of([[], [1], []], 4))
    assert sums[0].tolist() == sums[2].tolist() == [0, 0]


@pytest.mark.parametrize("n_items", SIZES)
def test_a_buffer_gets_what_autograd_would_give(n_items: int) -> None:
    histories = random_histories(6, n_items, seed=3, longest=5)
    batch = batch_of(histories, n_items)
    plain, buffered = table_of(n_items, 4), table_of(n_items, 4)
    row_sums(plain, batch).square().sum().backward()
    buffers = GradientBuffers([buffered])
    memory = buffered.grad
    assert memory is not None
    memory.fill_(99)  # what a step before left
    buffers.start([buffered])
    row_sums(buffered, batch, buffers).square().sum().backward()
    buffers.finish()
    assert buffered.grad is memory
    torch.testing.assert_close(buffered.grad, plain.grad, rtol=0, atol=0)


def test_two_uses_in_a_step_add_and_the_next_step_starts_afresh() -> None:
    first, second = batch_of([[0, 1], [2]], 4), batch_of([[1, 3]], 4)
    plain, buffered = table_of(4, 3), table_of(4, 3)
    buffers = GradientBuffers([buffered])
    for _ in range(2):
        buffers.start([buffered])
        loss = row_sums(buffered, first, buffers).square().sum()
        (loss + row_sums(buffered, second, buffers).pow(3).sum()).backward()
        buffers.finish()
        plain.grad = None
        loss = row_sums(plain, first).square().sum()
        (loss + row_sums(plain, second).pow(3).sum()).backward()
        torch.testing.assert_close(buffered.grad, plain.grad)


def test_an_unused_table_has_a_gradient_of_zero() -> None:
    used, unused = table_of(4, 2), table_of(4, 2, seed=1)
    buffers = GradientBuffers([used, unused])
    for table in (used, unused):
        assert table.grad is not None
        table.grad.fill_(5)
    buffers.start([used, unused])
    row_sums(used, batch_of([[1]], 4), buffers).sum().backward()
    buffers.finish()
    assert used.grad is not None
    assert unused.grad is not None
    assert used.grad.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert not unused.grad.any()


def test_start_drops_the_gradients_of_other_parameters() -> None:
    table, bias = table_of(4, 2), nn.Parameter(torch.zeros(2))
    buffers = GradientBuffers([table])
    bias.grad = torch.ones(2)
    buffers.start([table, bias])
    assert bias.grad is None
    assert table.grad is not None


def test_a_table_without_a_buffer_is_left_to_autograd() -> None:
    known, other = table_of(4, 2), table_of(4, 2, seed=1)
    buffers = GradientBuffers([known])
    buffers.start([known, other])
    row_sums(other, batch_of([[2]], 4), buffers).sum().backward()
    assert other.grad is not None
    assert other.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


class _Ones:
    def write(self, out: Tensor, *, add: bool) -> None:
        out.add_(1) if add else out.fill_(1)


def test_store_gradient_gives_autograd_a_tensor_or_fills_the_buffer() -> None:
    table = table_of(3, 2)
    fresh = store_gradient(None, table, _Ones())
    assert fresh is not None
    assert fresh.tolist() == [[1, 1]] * 3
    buffers = GradientBuffers([table])
    assert store_gradient(buffers, table, _Ones()) is None
    assert store_gradient(buffers, table, _Ones()) is None
    assert table.grad is not None
    assert table.grad.tolist() == [[2, 2]] * 3
