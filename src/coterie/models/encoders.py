"""Encoders: a user's sparse history to a posterior over the latent vector."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.posterior import Posterior
from coterie.models.tables import TableGradients, row_sums


class MlpEncoder(nn.Module):
    """Multi-VAE's encoder: sparse input layer, tanh hidden layers, Gaussian or point posterior.

    The first layer is a table with one row per item, summed over the history; the dense input
    vector of length I never exists.

    Parameters
    ----------
    n_items
        I.
    hidden_dims
        Widths of the hidden layers, from the input on; may be empty.
    latent_dim
        K, exactly the size of z.
    variational
        Whether to give a Gaussian; otherwise the code itself, through tanh (Multi-DAE).

    References
    ----------
    Liang et al., WWW 2018, arXiv 1802.05814, section 2.
    """

    def __init__(
        self, n_items: int, hidden_dims: tuple[int, ...], latent_dim: int, *, variational: bool
    ) -> None:
        super().__init__()
        self.variational = variational
        widths = [*hidden_dims, latent_dim * 2 if variational else latent_dim]
        self.table = nn.Parameter(torch.empty(n_items, widths[0]))
        self.bias = nn.Parameter(torch.empty(widths[0]))
        self.layers = nn.ModuleList(empty_linear(a, b) for a, b in pairwise(widths))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Xavier-normal weights, biases N(0, 0.001²), drawn in a fixed order."""
        xavier_normal(self.table, generator)
        small_normal(self.bias, generator)
        for layer in self.layers:
            reset_linear(layer, generator)

    def forward(self, batch: UserBatch, gradients: TableGradients | None = None) -> Posterior:
        """Posterior of each user in the batch: ``mu`` and ``logvar`` ``[B, K]``."""
        hidden = row_sums(self.table, batch, gradients) * batch.scale[:, None] + self.bias
        for layer in self.layers:
            hidden = layer(torch.tanh(hidden))
        hidden = hidden.float()
        if not self.variational:
            return Posterior(torch.tanh(hidden), None)
        mu, logvar = hidden.chunk(2, dim=1)
        return Posterior(mu, logvar)


def empty_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer with memory only: PyTorch's initialisation draws from global randomness."""
    return nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")


def xavier_normal(weight: Tensor, generator: torch.Generator) -> None:
    """Fill ``weight`` in place with N(0, 2 / (fan_in + fan_out))."""
    std = (2 / sum(weight.shape)) ** 0.5
    with torch.no_grad():
        weight.normal_(0, std, generator=generator)


def small_normal(bias: Tensor, generator: torch.Generator) -> None:
    """Fill ``bias`` in place with N(0, 0.001²)."""
    with torch.no_grad():
        bias.normal_(0, 0.001, generator=generator)


def reset_linear(layer: nn.Module, generator: torch.Generator) -> None:
    """Xavier-normal weight and small bias of one linear layer."""
    assert isinstance(layer, nn.Linear)
    xavier_normal(layer.weight, generator)
    small_normal(layer.bias, generator)
