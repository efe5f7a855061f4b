"""Encoders: a user's sparse history to a posterior over the latent vector.

The first layer of each is a table with one row per item, summed over the history; the dense input
vector of length I never exists. ``sums`` gives that layer without its bias, ``posterior`` the rest,
so that a VampPrior's pseudo-inputs can enter between the two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.config import RECVAE_EPS
from coterie.models.layers import chain, draw_layers, empty_linear, fan_in_uniform, xavier_normal
from coterie.models.posterior import Posterior
from coterie.models.tables import TableGradients, row_sums


class MlpEncoder(nn.Module):
    """Multi-VAE's encoder: sparse input layer, tanh hidden layers, Gaussian or point posterior.

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
        self.layers = chain(empty_linear, widths)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights as :func:`coterie.models.layers.xavier_normal`, in a fixed order."""
        xavier_normal(self.table, self.bias, len(self.table), generator)
        draw_layers(self.layers, xavier_normal, generator)

    def sums(self, batch: UserBatch, gradients: TableGradients | None = None) -> Tensor:
        """The first layer without its bias, ``[B, H]``."""
        return row_sums(self.table, batch, gradients) * batch.scale[:, None]

    def posterior(self, sums: Tensor) -> Posterior:
        """The posterior of what :meth:`sums` gives."""
        hidden = sums + self.bias
        for layer in self.layers:
            hidden = layer(torch.tanh(hidden))
        return _posterior(hidden.float(), variational=self.variational)

    def forward(
        self,
        batch: UserBatch,
        gradients: TableGradients | None = None,
        generator: torch.Generator | None = None,
    ) -> Posterior:
        """Posterior of each user in the batch: ``mu`` and ``logvar`` ``[B, K]``.

        ``generator`` is for encoders that draw; this one does not.
        """
        return self.posterior(self.sums(batch, gradients))


class DenselyConnectedEncoder(nn.Module):
    """RecVAE's encoder: each hidden layer adds up all before it, with swish and layer norms.

    ``h_1 = norm(swish(W_1 x + b_1))``, ``h_k = norm(swish(W_k h_{k-1} + b_k + Σ_{j<k} h_j))``;
    mean and log-variance are linear in the last. Weights begin as PyTorch's default.

    Parameters
    ----------
    n_items
        I.
    hidden_dims
        As many equal widths H as there are hidden layers, at least one.
    latent_dim
        K, exactly the size of z.
    variational
        As of :class:`MlpEncoder`.

    References
    ----------
    Shenbin et al., WSDM 2020, arXiv 1912.11160, section 3.2, and the authors' code, whose layer
    norms have an ε of 0.1.
    """

    def __init__(
        self, n_items: int, hidden_dims: tuple[int, ...], latent_dim: int, *, variational: bool
    ) -> None:
        super().__init__()
        self.variational = variational
        width = hidden_dims[0]
        self.table = nn.Parameter(torch.empty(n_items, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.layers = chain(empty_linear, list(hidden_dims))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=RECVAE_EPS) for _ in hidden_dims)
        self.head = empty_linear(width, latent_dim * 2 if variational else latent_dim)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights as :func:`coterie.models.layers.fan_in_uniform`, in a fixed order."""
        fan_in_uniform(self.table, self.bias, len(self.table), generator)
        for part in (self.layers, self.norms, self.head):
            draw_layers(part, fan_in_uniform, generator)

    def sums(self, batch: UserBatch, gradients: TableGradients | None = None) -> Tensor:
        """The first layer without its bias, ``[B, H]``."""
        return row_sums(self.table, batch, gradients) * batch.scale[:, None]

    def posterior(self, sums: Tensor) -> Posterior:
        """The posterior of what :meth:`sums` gives."""
        hidden = before = self.norms[0](F.silu(sums + self.bias))
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            hidden = norm(F.silu(layer(hidden) + before))
            before = before + hidden
        return _posterior(self.head(hidden).float(), variational=self.variational)

    def forward(
        self,
        batch: UserBatch,
        gradients: TableGradients | None = None,
        generator: torch.Generator | None = None,
    ) -> Posterior:
        """Posterior of each user, as :meth:`MlpEncoder.forward`."""
        return self.posterior(self.sums(batch, gradients))


def _posterior(head: Tensor, *, variational: bool) -> Posterior:
    if not variational:
        return Posterior(torch.tanh(head), None)
    mu, logvar = head.chunk(2, dim=1)
    return Posterior(mu, logvar)
