from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from coterie.models.tables import ROWS_PER_CHUNK, TableGradients, row_sums
from coterie.training.optimizer import Adam
from histories import batch_of, random_histories

N_ITEMS = ROWS_PER_CHUNK + 5


class Toy:
    """Two item tables and a bias; the loss uses the first table only in odd steps."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"first": (N_ITEMS, 3), "second": (N_ITEMS, 2), "bias": (3,), "idle": (4,)}
        self.parameters = {
            name: nn.Parameter(torch.randn(shape, generator=generator))
            for name, shape in shapes.items()
        }
        self.tables = [self.parameters["first"], self.parameters["second"]]

    def loss(self, step: int, gradients: TableGradients | None) -> Tensor:
        batch = batch_of(random_histories(5, N_ITEMS, seed=step, longest=40), N_ITEMS)
        second = row_sums(self.parameters["second"], batch, gradients).square().sum()
        if step % 2 == 0:
            return second + self.parameters["bias"].square().sum()
        first = row_sums(self.parameters["first"], batch, gradients) + self.parameters["bias"]
        return second + first.pow(3).sum()


def ours(toy: Toy, steps: int, **settings: float) -> None:
    optimizer, gradients = Adam(toy.parameters, **settings), TableGradients(toy.tables)
    for step in range(steps):
        gradients.start()
        for parameter in toy.parameters.values():
            parameter.grad = None
        toy.loss(step, gradients).backward()
        optimizer.step(gradients)


def reference(toy: Toy, steps: int, learning_rate: float, weight_decay: float = 0.0) -> Callable:
    """PyTorch's unfused AdamW on gradients that autograd stores."""
    optimizer = torch.optim.AdamW(
        toy.parameters.values(), lr=learning_rate, weight_decay=weight_decay, foreach=False
    )

    def run(clip_norm: float | None = None) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            toy.loss(step, None).backward()
            for table in toy.tables:  # a table that a step does not use has a gradient of zero
                if table.grad is None:
                    table.grad = torch.zeros_like(table)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(toy.parameters.values(), clip_norm)
            optimizer.step()

    return run


def assert_equal(one: Toy, other: Toy) -> None:
    for name, parameter in one.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_pytorchs_adamw(weight_decay: float) -> None:
    one, other = Toy(), Toy()
    before = {name: value.detach().clone() for name, value in one.parameters.items()}
    ours(one, 4, learning_rate=0.05, weight_decay=weight_decay)
    reference(other, 4, learning_rate=0.05, weight_decay=weight_decay)()
    assert_equal(one, other)
    assert not torch.equal(one.parameters["first"], before["first"])
    assert torch.equal(one.parameters["idle"], before["idle"])


@pytest.mark.parametrize("clip_norm", [0.5, 1e9])
def test_it_clips_by_the_norm_of_all_gradients(clip_norm: float) -> None:
    one, other = Toy(), Toy()
    ours(one, 4, learning_rate=0.05, clip_norm=clip_norm)
    reference(other, 4, learning_rate=0.05)(clip_norm)
    assert_equal(one, other)


def test_its_state_is_by_name_and_counts_the_steps() -> None:
    toy = Toy()
    optimizer, gradients = Adam(toy.parameters, learning_rate=0.1), TableGradients(toy.tables)
    gradients.start()
    toy.loss(1, gradients).backward()
    optimizer.step(gradients)
    assert optimizer.state["first.steps"].item() == optimizer.state["bias.steps"].item() == 1
    assert optimizer.state["idle.steps"].item() == 0, "it was not moved"
    assert optimizer.state["first.exp_avg"].shape == toy.parameters["first"].shape
    assert optimizer.state["bias.exp_avg_sq"].all()
