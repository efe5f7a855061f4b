"""Layers that PyTorch lacks, and how weights are drawn; nothing draws from global randomness."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

DrawWeights = Callable[[Tensor, Tensor, int, torch.Generator], None]
"""Fills weight and bias in place, given the number of inputs."""


class GatedLinear(nn.Module):
    """``value(x) ⊙ sigmoid(gate(x))``: a gated linear unit, two linear layers of x.

    Source: Kim & Suh, RecSys 2019, arXiv 1911.00936, section 3.3.

    Attributes
    ----------
    value, gate
        Linear layers from ``n_in`` to ``n_out``.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.value = empty_linear(n_in, n_out)
        self.gate = empty_linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """From ``[B, n_in]`` to ``[B, n_out]``."""
        gated: Tensor = self.value(x) * torch.sigmoid(self.gate(x))
        return gated


def empty_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer with memory only: PyTorch's initialisation draws from global randomness."""
    layer = nn.Linear(n_in, n_out, device="meta")
    layer.weight = nn.Parameter(torch.empty(n_out, n_in))  # `to_empty` would import SymPy
    layer.bias = nn.Parameter(torch.empty(n_out))
    return layer


def xavier_normal(weight: Tensor, bias: Tensor, n_in: int, generator: torch.Generator) -> None:
    """Weights N(0, 2 / (inputs + outputs)), biases N(0, 0.001²), as Liang et al. 2018."""
    with torch.no_grad():
        weight.normal_(0, (2 / sum(weight.shape)) ** 0.5, generator=generator)
        bias.normal_(0, 0.001, generator=generator)


def fan_in_uniform(weight: Tensor, bias: Tensor, n_in: int, generator: torch.Generator) -> None:
    """Both uniform within ± 1 / √inputs: PyTorch's default, which RecVAE's code keeps."""
    with torch.no_grad():
        for values in (weight, bias):
            values.uniform_(-(n_in**-0.5), n_in**-0.5, generator=generator)


def he_normal(weight: Tensor, bias: Tensor, n_in: int, generator: torch.Generator) -> None:
    """Weights N(0, 2 / inputs), biases uniform within ± 1 / √inputs, as H+Vamp's code."""
    with torch.no_grad():
        weight.normal_(0, (2 / n_in) ** 0.5, generator=generator)
        bias.uniform_(-(n_in**-0.5), n_in**-0.5, generator=generator)


def draw_layers(module: nn.Module, draw: DrawWeights, generator: torch.Generator) -> None:
    """Draw all linear layers within ``module``, in order; layer norms begin as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            draw(part.weight, part.bias, part.in_features, generator)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def chain(layer: Callable[[int, int], Any], widths: list[int]) -> nn.ModuleList:
    """Layers from each width to the next."""
    return nn.ModuleList(layer(a, b) for a, b in pairwise(widths))
