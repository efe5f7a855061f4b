"""Plain PyTorch RecVAE on dense histories, from the formulas of Shenbin et al., WSDM 2020.

Encoder: five equal layers, each of which adds up all before it (swish, layer norm with an epsilon
of 0.1). Decoder: one linear layer. KL: one draw of z, against the mixture of N(0, 1), an older
encoder's posterior of the clean history and N(0, e^10), in each dimension by itself; weighted by
gamma times the number of the user's items. Weights begin as PyTorch's default, as in the authors'
code, whose names and habits (a dense batch, log-softmax, full gradients) are kept.
"""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contest

LAYERS, NORM_EPS = 5, 0.1
WEIGHTS, WIDE_LOGVAR = (3 / 20, 3 / 4, 1 / 10), 10.0


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of each element of `z` under N(mu, exp(logvar))."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu) ** 2 / logvar.exp())


class Encoder(nn.Module):
    """Densely connected: I -> 5 x 600 -> mean and log-variance, 200 each."""

    def __init__(self, items: int) -> None:
        super().__init__()
        widths = [items] + [contest.HIDDEN] * LAYERS
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.norms = nn.ModuleList(nn.LayerNorm(contest.HIDDEN, NORM_EPS) for _ in range(LAYERS))
        self.mean = nn.Linear(contest.HIDDEN, contest.LATENT)
        self.log_variance = nn.Linear(contest.HIDDEN, contest.LATENT)

    def forward(self, x: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        """Map histories (B x I) to mean and log-variance (B x K each)."""
        h = F.dropout(F.normalize(x), dropout, training=self.training)
        before = torch.zeros((), device=x.device)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = norm(F.silu(layer(h) + before))
            before = before + h
        return self.mean(h), self.log_variance(h)


class RecVAE(nn.Module):
    """Encoder, decoder, and the older encoder that the prior asks."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.encoder = Encoder(items)
        self.decoder = nn.Linear(contest.LATENT, items)
        self.older = Encoder(items).requires_grad_(False)

    def forward(self, x: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map histories (B x I) to logits (B x I), z, mean and log-variance (B x K each)."""
        mu, logvar = self.encoder(x, dropout)
        z = mu
        if self.training:
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(z), z, mu, logvar

    def log_prior(self, x: Tensor, z: Tensor) -> Tensor:
        """Log-density of each element of z (B x K) under the composite prior."""
        zero = torch.zeros_like(z)
        parts = ((zero, zero), self.older(x, 0.0), (zero, zero + WIDE_LOGVAR))
        weighted = [
            math.log(weight) + log_normal(z, mu, logvar)
            for weight, (mu, logvar) in zip(WEIGHTS, parts, strict=True)
        ]
        return torch.logsumexp(torch.stack(weighted, dim=-1), dim=-1)

    def negative_elbo(self, x: Tensor, dropout: float) -> Tensor:
        """Multinomial negative log-likelihood plus gamma n KL: summed over items, mean over B."""
        logits, z, mu, logvar = self(x, dropout)
        likelihood = (F.log_softmax(logits, dim=1) * x).sum(dim=1)
        divergence = (log_normal(z, mu, logvar) - self.log_prior(x, z)).sum(dim=1)
        return (contest.GAMMA * x.sum(dim=1) * divergence - likelihood).mean()

    def refresh_snapshot(self) -> None:
        """Copy the encoder into the prior."""
        self.older.load_state_dict(copy.deepcopy(self.encoder.state_dict()))
