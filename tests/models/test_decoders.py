import pytest
import torch
import torch.nn.functional as F

from coterie.models.decoders import MlpDecoder
from coterie.models.layers import GatedLinear, he_normal


@pytest.mark.parametrize("hidden", [(), (8,), (5, 7, 9)])
def test_the_decoder_is_linear_layers_with_tanh_between(hidden: tuple[int, ...]) -> None:
    decoder = MlpDecoder(4, hidden, 17)
    decoder.reset_parameters(torch.Generator().manual_seed(0))
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    h = z
    for layer in decoder.layers:
        h = torch.tanh(F.linear(h, layer.weight, layer.bias))
    logits = decoder(z)
    assert logits.shape == (6, 17)
    assert len(decoder.layers) == len(hidden)
    torch.testing.assert_close(decoder.hidden(z), h)
    torch.testing.assert_close(logits, h @ decoder.table.T + decoder.bias)


@pytest.mark.parametrize("hidden", [(), (8,), (5, 7)])
def test_the_gated_decoder_is_gated_layers(hidden: tuple[int, ...]) -> None:
    decoder = MlpDecoder(4, hidden, 17, gated=True, draw=he_normal)
    decoder.reset_parameters(torch.Generator().manual_seed(0))
    h = z = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    for layer in decoder.layers:
        assert isinstance(layer, GatedLinear)
        h = layer.value(h) * torch.sigmoid(layer.gate(h))
    assert len(decoder.layers) == len(hidden)
    torch.testing.assert_close(decoder.hidden(z), h)
    torch.testing.assert_close(decoder(z), h @ decoder.table.T + decoder.bias)
    width = decoder.table.shape[1]
    assert decoder.table.std().item() == pytest.approx((2 / width) ** 0.5, rel=0.5)


def test_global_randomness_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    MlpDecoder(4, (8, 9), 17).reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
