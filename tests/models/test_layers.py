import pytest
import torch
from torch import nn

from coterie.models.layers import (
    DrawWeights,
    GatedLinear,
    chain,
    draw_layers,
    empty_linear,
    fan_in_uniform,
    he_normal,
    xavier_normal,
)


def test_a_gated_layer_is_its_formula() -> None:
    layer = GatedLinear(5, 3)
    draw_layers(layer, he_normal, torch.Generator().manual_seed(0))
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    value = x @ layer.value.weight.T + layer.value.bias
    gate = 1 / (1 + torch.exp(-(x @ layer.gate.weight.T + layer.gate.bias)))
    torch.testing.assert_close(layer(x), value * gate)


@pytest.mark.parametrize(
    ("draw", "weight_std", "bias_std"),
    [
        (xavier_normal, (2 / (300 + 200)) ** 0.5, 0.001),
        (fan_in_uniform, (1 / (3 * 300)) ** 0.5, (1 / (3 * 300)) ** 0.5),
        (he_normal, (2 / 300) ** 0.5, (1 / (3 * 300)) ** 0.5),
    ],
)
def test_weights_have_the_spread_that_is_said(
    draw: DrawWeights, weight_std: float, bias_std: float
) -> None:
    layer = empty_linear(300, 200)
    draw_layers(layer, draw, torch.Generator().manual_seed(0))
    for values, std in ((layer.weight, weight_std), (layer.bias, bias_std)):
        n = values.numel()
        assert values.std().item() == pytest.approx(std, rel=5 / n**0.5)
        assert abs(values.mean().item()) < 5 * std / n**0.5


def test_uniform_weights_are_pytorchs_own_default() -> None:
    ours = empty_linear(50, 20)
    draw_layers(ours, fan_in_uniform, torch.Generator().manual_seed(0))
    theirs = nn.Linear(50, 20)
    bound = 50**-0.5
    for one, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert one.abs().max() < bound
        assert other.abs().max() < bound
    assert max(ours.weight.abs().max(), theirs.weight.abs().max()) > 0.99 * bound


def test_all_layers_are_drawn_in_order_and_norms_are_the_identity() -> None:
    network = nn.ModuleList([*chain(GatedLinear, [4, 3, 2]), nn.LayerNorm(3), empty_linear(3, 3)])
    for parameter in network.parameters():
        nn.init.constant_(parameter, torch.nan)
    before = torch.random.get_rng_state()
    draw_layers(network, xavier_normal, torch.Generator().manual_seed(3))
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert network[2].weight.tolist() == [1, 1, 1]
    assert network[2].bias.tolist() == [0, 0, 0]
    first = network[0].value.weight.clone()
    draw_layers(network, xavier_normal, torch.Generator().manual_seed(3))
    assert torch.equal(network[0].value.weight, first)
    assert torch.equal(torch.random.get_rng_state(), before)
