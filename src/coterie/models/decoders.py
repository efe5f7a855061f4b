"""Decoders: a latent vector to one logit per item."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.models.layers import (
    DrawWeights,
    GatedLinear,
    chain,
    draw_layers,
    empty_linear,
    xavier_normal,
)


class MlpDecoder(nn.Module):
    """Hidden layers, tanh or gated, then an item table ``[I, H]`` of output weights.

    Parameters
    ----------
    latent_dim
        K.
    hidden_dims
        Widths from the code on; empty for RecVAE's decoder, whose output layer meets the code.
    n_items
        I.
    gated
        Whether the hidden layers are gated (H+Vamp); otherwise linear with tanh (Multi-VAE).
        The first sees all of ``z = [z1, z2]``; H+Vamp's code has one for z1 and one for z2, side
        by side, in its place.
    draw
        How weights begin.

    Attributes
    ----------
    layers
        ``nn.Linear``, each followed by tanh, or :class:`GatedLinear`; applied in order.
    table, bias
        The output layer, ``[I, H]`` and ``[I]``.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden_dims: tuple[int, ...],
        n_items: int,
        *,
        gated: bool = False,
        draw: DrawWeights = xavier_normal,
    ) -> None:
        super().__init__()
        widths = [latent_dim, *hidden_dims]
        self.layers = chain(GatedLinear if gated else empty_linear, widths)
        self.table = nn.Parameter(torch.empty(n_items, widths[-1]))
        self.bias = nn.Parameter(torch.empty(n_items))
        self._draw = draw

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights in a fixed order."""
        draw_layers(self.layers, self._draw, generator)
        self._draw(self.table, self.bias, self.table.shape[1], generator)

    def hidden(self, z: Tensor) -> Tensor:
        """The last hidden layer ``[B, H]`` of codes ``z`` ``[B, K]``; the codes without layers."""
        for layer in self.layers:
            z = layer(z) if isinstance(layer, GatedLinear) else torch.tanh(layer(z))
        return z.float()

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B, I]`` of codes ``z`` ``[B, K]``."""
        return F.linear(self.hidden(z), self.table, self.bias)
