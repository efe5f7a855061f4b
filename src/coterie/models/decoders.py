"""Decoders: a latent vector to one logit per item."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.models.encoders import empty_linear, reset_linear, small_normal, xavier_normal


class MlpDecoder(nn.Module):
    """Multi-VAE's decoder: tanh hidden layers, then an item table ``[I, H]`` of output weights.

    Parameters
    ----------
    latent_dim
        K.
    hidden_dims
        Widths from the code on (the encoder's, reversed); may be empty.
    n_items
        I.
    """

    def __init__(self, latent_dim: int, hidden_dims: tuple[int, ...], n_items: int) -> None:
        super().__init__()
        widths = [latent_dim, *hidden_dims]
        self.layers = nn.ModuleList(empty_linear(a, b) for a, b in pairwise(widths))
        self.table = nn.Parameter(torch.empty(n_items, widths[-1]))
        self.bias = nn.Parameter(torch.empty(n_items))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Xavier-normal weights, biases N(0, 0.001²), drawn in a fixed order."""
        for layer in self.layers:
            reset_linear(layer, generator)
        xavier_normal(self.table, generator)
        small_normal(self.bias, generator)

    def hidden(self, z: Tensor) -> Tensor:
        """The last hidden layer ``[B, H]`` of codes ``z`` ``[B, K]``."""
        for layer in self.layers:
            z = torch.tanh(layer(z))
        return z.float()

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B, I]`` of codes ``z`` ``[B, K]``."""
        return F.linear(self.hidden(z), self.table, self.bias)
