import pytest
import torch
from torch import Tensor, nn

from coterie.models import tables
from coterie.models.tables import ROWS_PER_CHUNK, TableGradients, row_sums, rows_per_chunk
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


def whole(gradients: TableGradients, table: Tensor) -> Tensor:
    """A recorded gradient, put together; its chunks must cover the table in order."""
    chunks = list(gradients.chunks(table))
    assert [start for start, _, _ in chunks] == [0, *(stop for _, stop, _ in chunks[:-1])]
    assert chunks[-1][1] == len(table)
    return torch.cat([rows for _, _, rows in chunks])


@pytest.mark.parametrize("n_items", SIZES)
def test_a_recorded_gradient_is_what_autograd_would_give(n_items: int) -> None:
    batch = batch_of(random_histories(6, n_items, seed=3, longest=5), n_items)
    plain, recorded = table_of(n_items, 4), table_of(n_items, 4)
    row_sums(plain, batch).square().sum().backward()
    gradients = TableGradients([recorded])
    gradients.start()
    row_sums(recorded, batch, gradients).square().sum().backward()
    assert recorded.grad is None
    assert plain.grad is not None
    assert torch.equal(whole(gradients, recorded), plain.grad)
    gradients.store(recorded)
    assert torch.equal(whole(gradients, recorded), plain.grad)


@pytest.mark.parametrize("n_items", SIZES)
def test_on_a_gpu_a_table_is_one_chunk(n_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [rows_per_chunk(n, cpu) for n in (0, n_items)] == [ROWS_PER_CHUNK] * 2
    assert [rows_per_chunk(n, gpu) for n in (0, n_items)] == [1, n_items]
    batch = batch_of(random_histories(6, n_items, seed=3, longest=5), n_items)
    plain, recorded = table_of(n_items, 4), table_of(n_items, 4)
    row_sums(plain, batch).square().sum().backward()
    monkeypatch.setattr(tables, "rows_per_chunk", lambda n_rows, device: n_rows)
    gradients = TableGradients([recorded])
    gradients.start()
    row_sums(recorded, batch, gradients).square().sum().backward()
    ((start, stop, rows),) = gradients.chunks(recorded)
    assert (start, stop) == (0, n_items)
    torch.testing.assert_close(rows, plain.grad)


def test_two_uses_in_a_step_add_and_the_next_step_starts_afresh() -> None:
    first, second = batch_of([[0, 1], [2]], 4), batch_of([[1, 3]], 4)
    plain, recorded = table_of(4, 3), table_of(4, 3)
    gradients = TableGradients([recorded])
    for _ in range(2):
        gradients.start()
        loss = row_sums(recorded, first, gradients).square().sum()
        (loss + row_sums(recorded, second, gradients).pow(3).sum()).backward()
        plain.grad = None
        loss = row_sums(plain, first).square().sum()
        (loss + row_sums(plain, second).pow(3).sum()).backward()
        torch.testing.assert_close(whole(gradients, recorded), plain.grad)


def test_an_unused_table_has_a_gradient_of_zero() -> None:
    used, unused = table_of(4, 2), table_of(4, 2, seed=1)
    gradients = TableGradients([used, unused])
    gradients.start()
    row_sums(used, batch_of([[1]], 4), gradients).sum().backward()
    assert whole(gradients, used).tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert whole(gradients, unused).tolist() == [[0, 0]] * 4


def test_other_tables_are_left_to_autograd() -> None:
    known, other = table_of(4, 2), table_of(4, 2, seed=1)
    gradients = TableGradients([known])
    gradients.start()
    row_sums(other, batch_of([[2]], 4), gradients).sum().backward()
    assert known in gradients
    assert other not in gradients
    assert other.grad is not None
    assert other.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
