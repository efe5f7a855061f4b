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


def gradients_of(state: TrainingState) -> dict[str, Tensor]:
    """The gradients of the step just made, those of the tables put together."""
    found = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    for name, parameter in state.model.named_parameters():
        if parameter in state.gradients:
            found[name] = torch.cat([rows for _, _, rows in state.gradients.chunks(parameter)])
    return found


def test_the_first_step_is_adams() -> None:
    state = state_of(learning_rate=0.01)
    before = one_step(state, learning_rate=0.01)
    gradients = gradients_of(state)
    for name, value in state.model.named_parameters():
        gradient = gradients[name]
        assert gradient.abs().max() > 0, name
        expected = before[name] - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_schedule_is_a_factor_of_the_learning_rate_in_every_step() -> None:
    """By PyTorch's Adam with its own scheduler, on the same gradients."""
    decay = {"kind": "linear", "start": 1, "end": 0.25, "epochs": 3 / STEPS}
    state = state_of(learning_rate_schedule=decay)
    reference = {
        name: torch.nn.Parameter(p.detach().clone()) for name, p in state.model.named_parameters()
    }
    adam = torch.optim.Adam(reference.values(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.25, total_iters=3)
    for _ in range(5):
        one_step(state, learning_rate_schedule=decay)
        state.progress.step += 1
        for name, gradient in gradients_of(state).items():
            reference[name].grad = gradient
        adam.step()
        scheduler.step()
    for name, value in state.model.named_parameters():
        torch.testing.assert_close(value, reference[name], rtol=1e-4, atol=1e-6, msg=name)


def test_weight_decay_is_decoupled() -> None:
    plain, decayed = state_of(), state_of(weight_decay=0.1)
    before = one_step(plain)
    one_step(decayed, weight_decay=0.1)
    for name, value in plain.model.named_parameters():
        shrunk = decayed.model.get_parameter(name)
        torch.testing.assert_close(shrunk, value - 5e-3 * 0.1 * before[name])


def test_clip_norm_reaches_the_optimizer() -> None:
    """A scaled gradient leaves Adam's first step as it is, and its moments scaled."""
    free, clipped = state_of(), state_of(clip_norm=0.5)
    one_step(free)
    one_step(clipped, clip_norm=0.5)
    moments = [
        torch.cat([v.flatten() for k, v in state.optimizer.state.items() if k.endswith("exp_avg")])
        for state in (free, clipped)
    ]
    assert moments[0].norm() > 0.1  # a tenth of the gradients' norm
    assert moments[1].norm().item() == pytest.approx(0.05, rel=1e-4)
    torch.testing.assert_close(moments[1], moments[0] * 0.05 / moments[0].norm())


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


def test_without_the_pull_of_the_mean_there_are_no_anchors() -> None:
    settings = experiment(objective={"align_mean": False})
    state = TrainingState.create(settings, small_split().train.n_items, context())
    assert state.objective.anchors is None
    batch = UserBatches(small_split().train, 20, 0).batch(0, 0)
    _, _, penalty = training_step(state, batch, settings, STEPS).tolist()
    assert penalty > 0  # the variance is still shrunk
