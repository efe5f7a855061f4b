"""Priors over the latent vector: their log-densities, and what they learn or keep."""

import math

import torch
from torch import Tensor, nn

from coterie.data.batches import UserBatch
from coterie.models.config import PriorConfig
from coterie.models.encoders import DenselyConnectedEncoder, MlpEncoder
from coterie.models.hierarchical import GaussianHead, HierarchicalEncoder
from coterie.models.layers import GatedLinear, chain, draw_layers, he_normal
from coterie.models.posterior import Posterior, normal_log_density

FlatEncoder = MlpEncoder | DenselyConnectedEncoder
Encoder = FlatEncoder | HierarchicalEncoder


class StandardNormal(nn.Module):
    """``N(0, 1)`` in every dimension; nothing to learn."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to draw."""

    def log_density(self, z: Tensor, encoder: Encoder, batch: UserBatch) -> Tensor:
        """``log p(z)`` per user, ``[B]``, in nats."""
        return normal_log_density(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)


class CompositePrior(nn.Module):
    """RecVAE's prior: a mixture of ``N(0, 1)``, an older encoder's posterior and a wide normal.

    As in the authors' code the mixture is taken in each dimension by itself, so that
    ``p(z | x) = Π_k Σ_j w_j N(z_k; ·)``; the paper's formula reads as a mixture of whole vectors.
    The older posterior is that of the CLEAN history.

    Parameters
    ----------
    config
        Weights, and the wide normal's log-variance.
    snapshot
        An encoder of the model's own architecture; it is never trained, only copied into.

    References
    ----------
    Shenbin et al., WSDM 2020, arXiv 1912.11160, section 3.3.
    """

    def __init__(self, config: PriorConfig, snapshot: FlatEncoder) -> None:
        super().__init__()
        self.log_weights = [math.log(weight) for weight in config.weights]
        self.wide_logvar = config.wide_logvar
        self.snapshot = snapshot.requires_grad_(False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the snapshot: until the first :meth:`refresh` it is an untrained encoder."""
        self.snapshot.reset_parameters(generator)

    def refresh(self, encoder: Encoder) -> None:
        """Copy ``encoder``'s weights into the snapshot."""
        self.snapshot.load_state_dict(encoder.state_dict())

    def log_density(self, z: Tensor, encoder: Encoder, batch: UserBatch) -> Tensor:
        """``log p(z | x)`` per user, ``[B]``, in nats; ``batch`` holds the clean histories."""
        with torch.no_grad():
            older: Posterior = self.snapshot(batch)
        assert older.logvar is not None
        zero = torch.zeros_like(z)
        parts = (
            normal_log_density(z, zero, zero),
            normal_log_density(z, older.mu, older.logvar),
            normal_log_density(z, zero, zero + self.wide_logvar),
        )
        weighted = [part + log for part, log in zip(parts, self.log_weights, strict=True)]
        return torch.logsumexp(torch.stack(weighted), 0).sum(1)


class VampPrior(nn.Module):
    """A mixture of the encoder's own posteriors at learned pseudo-inputs.

    A pseudo-input is learned as what its first layer sums to, ``[H]``, not as a vector of I items:
    with I > H every such sum is that of some real-valued input, and nothing is of size N × I.
    (Kim & Suh's code learns inputs in [0, 1].)

    Parameters
    ----------
    n_pseudo_inputs
        N, the components.
    width
        H, the columns of the encoder's item table that enter.
    n_items
        I: pseudo-inputs begin as N(0, 1/I), about as spread as histories' sums then are.

    References
    ----------
    Tomczak & Welling, AISTATS 2018, arXiv 1705.07120, equation 9.
    """

    def __init__(self, n_pseudo_inputs: int, width: int, n_items: int) -> None:
        super().__init__()
        self.spread = max(n_items, 1) ** -0.5
        self.pseudo_inputs = nn.Parameter(torch.empty(n_pseudo_inputs, width))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the pseudo-inputs."""
        with torch.no_grad():
            self.pseudo_inputs.normal_(0, self.spread, generator=generator)

    def components(self, encoder: Encoder) -> Posterior:
        """The mixture's components, ``[N, K]``; over z2 alone for a hierarchical encoder."""
        if isinstance(encoder, HierarchicalEncoder):
            return encoder.upper(self.pseudo_inputs)
        return encoder.posterior(self.pseudo_inputs)

    def log_density(self, z: Tensor, encoder: Encoder, batch: UserBatch) -> Tensor:
        """``log p(z)`` per user, ``[B]``, in nats."""
        parts = self.components(encoder)
        assert parts.logvar is not None
        return mixture_log_density(z, parts.mu, parts.logvar)


class HierarchicalVampPrior(nn.Module):
    """H+Vamp's prior of ``z = [z1, z2]``: ``p(z1 | z2)`` from a gated network, z2 a VampPrior.

    Parameters
    ----------
    vamp
        The prior of z2.
    hidden_dims
        Widths of the network's gated layers, from z2 on.
    latent_dim
        K, even.

    References
    ----------
    Kim & Suh, RecSys 2019, arXiv 1911.00936, section 3.2.
    """

    def __init__(self, vamp: VampPrior, hidden_dims: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        self.vamp = vamp
        half = latent_dim // 2
        self.layers = chain(GatedLinear, [half, *hidden_dims])
        self.head = GaussianHead(hidden_dims[-1], half)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the pseudo-inputs and the network, in a fixed order."""
        self.vamp.reset_parameters(generator)
        draw_layers(self.layers, he_normal, generator)
        draw_layers(self.head, he_normal, generator)

    def conditional(self, z2: Tensor) -> Posterior:
        """``p(z1 | z2)`` for each row of ``z2`` ``[B, K/2]``."""
        for layer in self.layers:
            z2 = layer(z2)
        return Posterior(*self.head(z2))

    def log_density(self, z: Tensor, encoder: Encoder, batch: UserBatch) -> Tensor:
        """``log p(z1 | z2) + log p(z2)`` per user, ``[B]``, in nats."""
        z1, z2 = z.chunk(2, dim=1)
        return self.conditional(z2).log_density(z1) + self.vamp.log_density(z2, encoder, batch)


Prior = StandardNormal | CompositePrior | VampPrior | HierarchicalVampPrior


def mixture_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log-density ``[B]`` of codes ``z`` ``[B, K]`` under N equally likely diagonal Gaussians.

    ``Σ_k (z_k − μ_k)² / σ_k²`` is multiplied out, so that it costs two matrix products and no
    tensor of B × N × K exists; in float32 it is exact to some 1e-7 of ``Σ_k (z_k² + μ_k²) / σ_k²``.

    Parameters
    ----------
    z
        Codes.
    mu, logvar
        The components, ``[N, K]``.
    """
    with torch.autocast(z.device.type, enabled=False):
        precision = torch.exp(-logvar)
        constant = (mu.square() * precision + logvar).sum(1) + z.shape[1] * math.log(2 * math.pi)
        squares = torch.addmm(constant, z.square(), precision.T)
        exponents = torch.addmm(squares, z, (mu * precision).T, beta=-0.5)
        return torch.logsumexp(exponents, 1) - math.log(len(mu))
