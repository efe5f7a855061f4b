"""The hierarchical gated encoder of H+Vamp: ``q(z2 | x)``, then ``q(z1 | x, z2)``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.layers import GatedLinear, chain, draw_layers, empty_linear, he_normal
from coterie.models.posterior import Posterior, draw_normal
from coterie.models.tables import TableGradients, row_sums

LOGVAR_BOUNDS = (-12.0, 4.0)  # of H+Vamp's code


class GaussianHead(nn.Module):
    """Mean and log-variance, both linear, the latter kept within −12 and 4."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = empty_linear(n_in, n_out * 2)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` and ``logvar``, float32 ``[B, n_out]`` each."""
        mu, logvar = self.linear(hidden).float().chunk(2, dim=1)
        return mu, logvar.clamp(*LOGVAR_BOUNDS)


class HierarchicalEncoder(nn.Module):
    """H+Vamp's gated encoder of ``z = [z1, z2]``: z2 from x, then z1 from x and z2.

    Both levels have a gated first layer of their own on x. Their four item tables (value and gate
    of z2's, value and gate of z1's) are one table of ``4 H`` columns, summed over a history once.

    Parameters
    ----------
    n_items
        I.
    hidden_dims
        At least two widths; the first is that of x's and z2's layers, which meet in the second.
    latent_dim
        K, even; K/2 is the size of z1 and of z2.

    References
    ----------
    Kim & Suh, RecSys 2019, arXiv 1911.00936, section 3, and the authors' code for two or more
    layers; the code drops input entries anew for each level, here both see the same mask.
    """

    def __init__(self, n_items: int, hidden_dims: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        first, *rest = hidden_dims
        half, last = latent_dim // 2, hidden_dims[-1]
        self.table = nn.Parameter(torch.empty(n_items, 4 * first))
        self.bias = nn.Parameter(torch.empty(4 * first))
        self.layers = chain(GatedLinear, [first, *rest])
        self.head = GaussianHead(last, half)
        self.code_layer = GatedLinear(half, first)
        self.joint_layers = chain(GatedLinear, [2 * first, *rest])
        self.joint_head = GaussianHead(last, half)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights as :func:`coterie.models.layers.he_normal`, in a fixed order."""
        he_normal(self.table, self.bias, len(self.table), generator)
        for part in (self.layers, self.head, self.code_layer, self.joint_layers, self.joint_head):
            draw_layers(part, he_normal, generator)

    @property
    def upper_width(self) -> int:
        """How many of the first layer's sums z2 comes from: the first ``2 H``."""
        return len(self.bias) // 2

    def sums(self, batch: UserBatch, gradients: TableGradients | None = None) -> Tensor:
        """The first layers without their biases, ``[B, 4 H]``."""
        return row_sums(self.table, batch, gradients) * batch.scale[:, None]

    def upper(self, sums: Tensor) -> Posterior:
        """``q(z2 | x)`` from the first ``2 H`` of the sums, ``[B, K/2]``."""
        hidden = F.glu(sums + self.bias[: self.upper_width], 1)
        for layer in self.layers:
            hidden = layer(hidden)
        return Posterior(*self.head(hidden))

    def lower(self, sums: Tensor, z2: Tensor) -> Posterior:
        """``q(z1 | x, z2)`` from the last ``2 H`` of the sums, ``[B, K/2]``."""
        hidden = F.glu(sums + self.bias[self.upper_width :], 1)
        hidden = torch.cat([hidden, self.code_layer(z2)], 1)
        for layer in self.joint_layers:
            hidden = layer(hidden)
        return Posterior(*self.joint_head(hidden))

    def posterior(self, sums: Tensor, generator: torch.Generator | None = None) -> Posterior:
        """The posterior of what :meth:`sums` gives; z2 as in :meth:`forward`."""
        upper = self.upper(sums[:, : self.upper_width])
        assert upper.logvar is not None
        z2 = upper.mu if generator is None else draw_normal(upper.mu, upper.logvar, generator)
        lower = self.lower(sums[:, self.upper_width :], z2)
        assert lower.logvar is not None
        return Posterior(
            torch.cat([lower.mu, upper.mu], 1),
            torch.cat([lower.logvar, upper.logvar], 1),
            drawn=None if generator is None else z2,
        )

    def forward(
        self,
        batch: UserBatch,
        gradients: TableGradients | None = None,
        generator: torch.Generator | None = None,
    ) -> Posterior:
        """Posterior of each user; z2 is drawn from ``generator``, or its mean without one."""
        return self.posterior(self.sums(batch, gradients), generator)
