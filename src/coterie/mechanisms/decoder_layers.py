"""A decoder's hidden layers as affine maps with an elementwise part, to differentiate by hand.

Letters: ``D`` inputs of a layer, ``H`` outputs, ``M`` rows of its weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.errors import ConfigError
from coterie.models.decoders import MlpDecoder
from coterie.models.layers import GatedLinear


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """``tanh(W a + b)``; or, gated, ``y ⊙ sigmoid(s)`` of the halves ``[y, s] = W a + b``.

    A gated layer's two affine maps share their input, so it is one map of twice the width.

    Parameters
    ----------
    weight, bias
        float64 ``[M, D]`` and ``[M]``; M is H, or 2H if gated.
    gated
        Which of the two.
    """

    weight: Tensor
    bias: Tensor
    gated: bool

    def before(self, inputs: Tensor) -> Tensor:
        """``W a + b`` of inputs ``[…, D]``: ``[…, M]``."""
        return inputs @ self.weight.T + self.bias

    def after(self, before: Tensor) -> Tensor:
        """The layer's outputs ``[…, H]``."""
        if not self.gated:
            return torch.tanh(before)
        value, gate = before.chunk(2, dim=-1)
        return value * torch.sigmoid(gate)

    def slopes(self, before: Tensor) -> Tensor:
        """Derivatives of each output in the numbers before it, ``[…, M]``."""
        if not self.gated:
            return 1 - torch.tanh(before).square()
        value, gate = before.chunk(2, dim=-1)
        open_ = torch.sigmoid(gate)
        return torch.cat([open_, value * open_ * (1 - open_)], dim=-1)

    def back(self, gradient: Tensor, slopes: Tensor) -> Tensor:
        """The gradient in ``W a + b``, ``[…, M]``, from that in the outputs, ``[…, H]``."""
        return (torch.cat([gradient, gradient], dim=-1) if self.gated else gradient) * slopes


def hidden_layers(decoder: MlpDecoder) -> list[HiddenLayer]:
    """The layers of ``decoder.layers`` before its output table, copied to the CPU.

    Raises
    ------
    ConfigError
        One of them is neither linear, with tanh after it, nor gated; or the decoder's own hidden
        output is another than these layers', so that its gradient would be too.
    """
    found = [_hidden_layer(layer) for layer in decoder.layers]
    table = decoder.table
    width = found[0].weight.shape[1] if found else table.shape[1]
    probe = torch.linspace(-2, 2, 3 * width).view(3, width)
    hidden = probe.double()
    for layer in found:
        hidden = layer.after(layer.before(hidden))
    with torch.no_grad():
        own = decoder.hidden(probe.to(table.device)).double().cpu()
    if own.shape != hidden.shape or not torch.allclose(own, hidden, rtol=1e-3, atol=1e-3):
        raise _unknown(decoder)
    return found


def _hidden_layer(layer: nn.Module) -> HiddenLayer:
    gated = isinstance(layer, GatedLinear)
    parts = [layer.value, layer.gate] if isinstance(layer, GatedLinear) else [layer]
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    if not linear:
        raise _unknown(layer)
    weight = torch.cat([part.weight.detach().double().cpu() for part in linear])
    bias = torch.cat([part.bias.detach().double().cpu() for part in linear])
    return HiddenLayer(weight, bias, gated)


def _unknown(part: nn.Module) -> ConfigError:
    return ConfigError(
        "Gradients are known for decoders of linear layers with tanh and of gated linear layers, "
        f"but this {type(part).__name__} is of another kind; measure the model's encoder only."
    )
