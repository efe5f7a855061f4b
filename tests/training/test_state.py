from typing import Any

import pytest
import torch
from small_run import context, experiment, small_split
from torch import Tensor

from coterie.data.batches import UserBatches
from coterie.training.state import TrainingState, training_step

STEPS = 17  # per epoch


def state_of(**training: Any) -> TrainingState:
    return TrainingState.create(experiment(**training), small_split().train.n_items, context())


def one_step(state: TrainingState, **training: Any) -> dict[str, Tensor]:
    batches = UserBatches(small_split().train, 20, 0)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    training_step(state, batches.batch(0, 0), experiment(**training), STEPS)
    return before


def test_the_first_step_is_adams() -> None:
    state = state_of(learning_rate=0.01)
    before = one_step(state, learning_rate=0.01)
    for name, value in state.model.named_parameters():
        gradient = value.grad
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        expected = before[name] - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-4, atol=1e-6)


def test_weight_decay_is_decoupled() -> None:
    plain, decayed = state_of(), state_of(weight_decay=0.1)
    before = one_step(plain)
    one_step(decayed, weight_decay=0.1)
    for name, value in plain.model.named_parameters():
        shrunk = decayed.model.get_parameter(name)
        torch.testing.assert_close(shrunk, value - 5e-3 * 0.1 * before[name])


def test_clip_norm_bounds_the_global_norm() -> None:
    free, clipped = state_of(), state_of(clip_norm=0.5)
    one_step(free)
    one_step(clipped, clip_norm=0.5)

    def norm(state: TrainingState) -> float:
        gradients = [p.grad.flatten() for p in state.parameters if p.grad is not None]
        return torch.cat(gradients).norm().item()

    assert norm(free) > 1
    assert norm(clipped) == pytest.approx(0.5, rel=1e-4)
    for one, other in zip(free.parameters, clipped.parameters, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other.grad, one.grad * 0.5 / norm(free), rtol=1e-4, atol=1e-7)


def test_a_step_is_a_function_of_seed_and_step_number() -> None:
    batch = UserBatches(small_split().train, 20, 0).batch(0, 0)
    terms = []
    for steps_before, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        state = state_of()  # the same weights each time
        state.progress.step = steps_before
        state.generator.manual_seed(99)
        state.generator.seed()
        terms.append(training_step(state, batch, experiment(seed=seed), STEPS).tolist())
    assert terms[0] == terms[1]
    assert terms[0] != terms[2]
    assert terms[0] != terms[3]


def test_every_parameter_is_moved() -> None:
    state = state_of()
    before = [parameter.detach().clone() for parameter in state.parameters]
    assert len(before) == len([*state.model.parameters()]) + 1, "the anchors too"
    one_step(state)
    for old, new in zip(before, state.parameters, strict=True):
        assert not torch.equal(old, new)
