import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Multinomial

from coterie.data.batches import UserBatch
from coterie.models.decoders import MlpDecoder
from coterie.models.tables import TableGradients
from coterie.objectives.multinomial import (
    OutputWorkspace,
    fused_multinomial_nll,
    multinomial_nll,
)
from histories import batch_of, dense_of, random_histories

N_ITEMS, WIDTH = 137, 12
HISTORIES = random_histories(20, N_ITEMS, seed=0, longest=40)  # user 0 has none


def decoder_of(spread: float = 1.0, n_items: int = N_ITEMS) -> MlpDecoder:
    decoder = MlpDecoder(WIDTH, (), n_items)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        decoder.table.normal_(0, spread, generator=generator)
        decoder.bias.normal_(0, 0.5, generator=generator)
    return decoder


def hidden_of(n_users: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(n_users, WIDTH, generator=generator)).requires_grad_()


def plain(hidden: Tensor, decoder: MlpDecoder, batch: UserBatch) -> list[Tensor]:
    """Loss, and gradients of hidden layer, table and bias, by autograd in double precision."""
    leaves = [t.detach().double().requires_grad_() for t in (hidden, decoder.table, decoder.bias)]
    loss = multinomial_nll(leaves[0] @ leaves[1].T + leaves[2], batch).mean()
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def fused(
    hidden: Tensor, decoder: MlpDecoder, batch: UserBatch, workspace: OutputWorkspace
) -> list[Tensor]:
    loss = fused_multinomial_nll(hidden, decoder, batch, workspace)
    return [loss.detach(), *torch.autograd.grad(loss, [hidden, decoder.table, decoder.bias])]


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return ((found.double() - expected).norm() / expected.norm()).item()


def test_plain_is_torchs_multinomial_without_its_coefficient() -> None:
    logits = 3 * torch.randn(20, N_ITEMS, generator=torch.Generator().manual_seed(0)).double()
    found = multinomial_nll(logits, batch_of(HISTORIES, N_ITEMS))
    assert found.shape == (20,)
    assert found[0] == 0, "an empty history has a likelihood of one"
    for user, counts in enumerate(dense_of(HISTORIES, N_ITEMS)):
        n = len(HISTORIES[user])
        if n:
            law = Multinomial(n, logits=logits[user])
            expected = -(law.log_prob(counts.double()) - math.lgamma(n + 1))
            assert found[user].item() == pytest.approx(expected.item(), rel=1e-12)


def test_fused_is_plain_in_float32() -> None:
    batch, decoder, hidden = batch_of(HISTORIES, N_ITEMS), decoder_of(), hidden_of(20)
    expected = plain(hidden, decoder, batch)
    found = fused(hidden, decoder, batch, OutputWorkspace())
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
    for name, one, other in zip(("hidden", "table", "bias"), found[1:], expected[1:], strict=True):
        assert one.dtype == torch.float32
        assert distance(one, other) < 1e-6, name
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)


def test_fused_bf16_is_plain_within_bf16s_precision() -> None:
    batch, decoder, hidden = batch_of(HISTORIES, N_ITEMS), decoder_of(), hidden_of(20)
    expected = plain(hidden, decoder, batch)
    found = fused(hidden, decoder, batch, OutputWorkspace(torch.bfloat16))
    assert found[0].item() == pytest.approx(expected[0].item(), rel=3e-3)
    for name, one, other in zip(("hidden", "table", "bias"), found[1:], expected[1:], strict=True):
        assert one.dtype == torch.float32
        assert distance(one, other) < 1e-2, name


def test_bf16s_loss_has_no_bias() -> None:
    histories = random_histories(200, N_ITEMS, seed=4, longest=60)
    batch, decoder, hidden = batch_of(histories, N_ITEMS), decoder_of(0.5), hidden_of(200)
    exact = plain(hidden, decoder, batch)[0].item()
    found = fused(hidden, decoder, batch, OutputWorkspace(torch.bfloat16))[0].item()
    assert found == pytest.approx(exact, rel=5e-4)


@pytest.mark.parametrize("spread", [1e-3, 3.0])
def test_fused_is_plain_for_flat_and_for_peaked_predictions(spread: float) -> None:
    batch, decoder, hidden = batch_of(HISTORIES, N_ITEMS), decoder_of(spread), hidden_of(20)
    logits = hidden @ decoder.table.T
    assert (logits.amax(1) - logits.amin(1)).max() < 87, "where float32's softmax underflows"
    expected = plain(hidden, decoder, batch)
    found = fused(hidden, decoder, batch, OutputWorkspace())
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-5


def test_beyond_float32s_range_the_gradient_is_right_and_the_loss_finite() -> None:
    batch, decoder, hidden = batch_of(HISTORIES, N_ITEMS), decoder_of(60.0), hidden_of(20)
    expected = plain(hidden, decoder, batch)
    found = fused(hidden, decoder, batch, OutputWorkspace())
    assert math.isfinite(found[0].item())
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert distance(one, other) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_scale_with_the_loss(dtype: torch.dtype) -> None:
    batch, decoder = batch_of(HISTORIES, N_ITEMS), decoder_of()
    grads = []
    for factor in (1, 3):
        hidden = hidden_of(20)
        decoder.zero_grad()
        loss = fused_multinomial_nll(hidden, decoder, batch, OutputWorkspace(dtype))
        (factor * loss).backward()
        grads.append([hidden.grad, decoder.table.grad, decoder.bias.grad])
    for one, three in zip(*grads, strict=True):
        assert one is not None
        assert three is not None
        assert distance(three, 3.0 * one.double()) < (1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_other_sizes_reuse_the_workspace(dtype: torch.dtype) -> None:
    decoder, workspace = decoder_of(), OutputWorkspace(dtype)
    memory = None
    for users in ([*range(20)], [3, 4, 5], [0], [*range(10, 20)]):
        histories = [HISTORIES[user] for user in users]
        batch, hidden = batch_of(histories, N_ITEMS), hidden_of(len(users))
        found = fused(hidden, decoder, batch, workspace)
        fresh = fused(hidden, decoder, batch, OutputWorkspace(dtype))
        for one, other in zip(found, fresh, strict=True):
            assert torch.equal(one, other)
        assert workspace.logits is not None
        assert memory in (None, workspace.logits.data_ptr())
        memory = workspace.logits.data_ptr()


def test_a_larger_batch_enlarges_the_workspace() -> None:
    decoder, workspace = decoder_of(), OutputWorkspace()
    for n_users in (2, 20):
        batch, hidden = batch_of(HISTORIES[:n_users], N_ITEMS), hidden_of(n_users)
        expected = plain(hidden, decoder, batch)
        for one, other in zip(fused(hidden, decoder, batch, workspace), expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)


def test_only_empty_histories_cost_nothing() -> None:
    decoder, hidden = decoder_of(), hidden_of(2)
    for value in fused(hidden, decoder, batch_of([[], []], N_ITEMS), OutputWorkspace()):
        assert not value.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recorded_gradient_is_what_autograd_would_give(dtype: torch.dtype) -> None:
    batches = [batch_of(HISTORIES[:9], N_ITEMS), batch_of(HISTORIES[9:], N_ITEMS)]
    decoder, workspace = decoder_of(), OutputWorkspace(dtype)
    gradients = TableGradients([decoder.table])
    for batch in batches:
        hidden = hidden_of(batch.n_users)
        expected = fused(hidden, decoder, batch, OutputWorkspace(dtype))[2]
        decoder.table.grad = None
        gradients.start()
        fused_multinomial_nll(hidden, decoder, batch, workspace, gradients).backward()
        assert decoder.table.grad is None
        found = torch.cat([rows for _, _, rows in gradients.chunks(decoder.table)])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_poisoned_weights_give_nan_and_not_a_number_that_looks_fine() -> None:
    decoder = decoder_of()
    with torch.no_grad():
        decoder.table[3, 0] = math.nan
    loss = fused_multinomial_nll(
        hidden_of(20), decoder, batch_of(HISTORIES, N_ITEMS), OutputWorkspace()
    )
    assert math.isnan(loss.item())


def test_the_table_is_not_changed() -> None:
    decoder, batch = decoder_of(), batch_of(HISTORIES, N_ITEMS)
    before = decoder.table.detach().clone()
    for dtype in (torch.float32, torch.bfloat16):
        fused(hidden_of(20), decoder, batch, OutputWorkspace(dtype))
        assert torch.equal(decoder.table, before)
