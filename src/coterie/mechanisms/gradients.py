"""Per-user gradients of the decoder, as factors: inner products without any gradient stored.

Letters: ``N`` sampled users, ``S`` codes per user, ``P`` pairs of users, ``b`` pairs in a block.

One code's gradient of ``ℓ(x, z) = n·logsumexp(f) − Σ_{i∈S} f_i`` is a product in every layer: in
the output table ``r hᵀ`` with ``r = n π − x``, in an inner layer ``δ aᵀ`` with the back-propagated
``δ`` and the layer's input ``a``; in the biases ``r`` and ``δ``. Hence two gradients have the inner
product ``Σ_layers (δ·δ')(a·a' + 1)``, and a user's gradient is a mean over codes. In the output
layer, ``r·r' = n n' π·π' − n π·x' − n' π'·x + x·x'``: one user's history at another user's codes
needs no further product over the items.

Sums are float64, since mismatches are small differences of large inner products.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from coterie.errors import ConfigError
from coterie.mechanisms.decoder_layers import hidden_layers
from coterie.models.posterior import Posterior
from coterie.models.vae import VAE

SAME_CODE = 1e-5  # relative distance of codes below which float32 tells nothing of a slope
BLOCK_BYTES = 4e6  # of one block's logits: within reach of a cache


@dataclass(frozen=True, eq=False)
class PairGradients:
    """For P ordered pairs (u, v), with ``g_u = E_{q_u} ∇ℓ(x_u, z)``; all float64 ``[P]``.

    Parameters
    ----------
    influence
        ``⟨g_u, g_v⟩``, squared nats per unit of θ².
    norm, other_norm
        ``‖g_u‖`` and ``‖g_v‖``.
    latent_mismatch
        ``‖E_{q_u} ∇ℓ(x_u, z) − E_{q_v} ∇ℓ(x_u, z)‖``.
    content_mismatch
        ``Δ_x(u, v) = ‖E_{q_v} [∇ℓ(x_u, z) − ∇ℓ(x_v, z)]‖``.
    code_distance
        Mean over the draws s of ``‖z_us − z_vs‖``.
    steepest
        Max over s of ``‖∇ℓ(x_u, z_us) − ∇ℓ(x_u, z_vs)‖ / ‖z_us − z_vs‖``; 0 where codes coincide.
    """

    influence: np.ndarray
    norm: np.ndarray
    other_norm: np.ndarray
    latent_mismatch: np.ndarray
    content_mismatch: np.ndarray
    code_distance: np.ndarray
    steepest: np.ndarray

    @property
    def cosine(self) -> np.ndarray:
        """Of ``g_u`` and ``g_v``; 0 if one of them vanishes."""
        size = self.norm * self.other_norm
        cosine: np.ndarray = np.divide(
            self.influence, size, out=np.zeros_like(size), where=size > 0
        )
        return cosine


@dataclass(frozen=True, eq=False)
class _Side:
    """Gradients of the ``targets``' losses at the codes of the users ``codes``, both ``[b]``."""

    targets: Tensor
    codes: Tensor
    deltas: list[Tensor]


class DecoderGradients:
    """Gradients of ``L_u(θ) = mean_s ℓ(x_u, z_us)``; θ is all of the decoder.

    Parameters
    ----------
    model
        Its decoder is copied to the CPU.
    histories
        ``[N, I]`` of ones.
    codes
        float64 ``[N, S, K]``. Memory: ``N × S × I`` float32, so N must come from a budget.
    """

    def __init__(self, model: VAE, histories: sp.csr_array, codes: Tensor) -> None:
        decoder = model.decoder
        self.histories = sp.csr_array(histories, dtype=np.float64)
        self.lengths = torch.from_numpy(np.diff(self.histories.indptr).astype(np.float64))
        self.table = decoder.table.detach().float().cpu()
        self.layers = hidden_layers(decoder)
        self.inputs, self.befores = [codes], []  # each layer's input [N, S, D], the last is h
        for layer in self.layers:
            self.befores.append(layer.before(self.inputs[-1]))
            self.inputs.append(layer.after(self.befores[-1]))
        pairs = zip(self.layers, self.befores, strict=True)
        self.slopes = [layer.slopes(before) for layer, before in pairs]
        hidden = self.inputs[-1].float().flatten(0, 1)
        logits = torch.addmm(decoder.bias.detach().float().cpu(), hidden, self.table.T)
        sizes = torch.logsumexp(logits, 1).double().view(codes.shape[:2])
        chosen = self._on_histories(logits).view(len(codes), *codes.shape[:2])
        own = chosen.diagonal(dim1=0, dim2=1).T  # [N, S]: Σ_{i∈S} f_i
        self.losses = (self.lengths[:, None] * sizes - own).mean(1)  # [N], nats
        flat = torch.softmax(logits, 1)
        self.probabilities = flat.view(*codes.shape[:2], -1)  # [N, S, I]
        # [N, N, S]: of whose history, at whose codes; a number for two sampled users, not for U.
        self.mass = self._on_histories(flat).view(chosen.shape)
        self.shared = torch.from_numpy((self.histories @ self.histories.T).toarray())
        self.pulled = (flat @ self.table).double().view(*codes.shape[:2], -1)  # Tᵀ π
        self.own_rows = torch.from_numpy(self.histories @ self.table.double().numpy())  # Tᵀ x

    def _on_histories(self, values: Tensor) -> Tensor:
        """Sums over each history's items, ``[N, M]``, of ``values`` ``[M, I]``."""
        return torch.from_numpy(self.histories @ values.double().numpy().T)

    @cached_property
    def squared_norms(self) -> Tensor:
        """``‖g_u‖²``, ``[N]``."""
        return self._own_gram.mean((1, 2))

    def pairs(self, pairs: np.ndarray) -> PairGradients:
        """All that Theorem 2.3 needs of the ordered pairs (u, v), int64 ``[P, 2]`` below N."""
        blocks = [torch.stack(self._pairs(u, v)) for u, v in self._blocks(pairs)]
        return PairGradients(*(torch.cat(blocks, 1) if blocks else torch.empty(7, 0)).numpy())

    def _pairs(self, u: Tensor, v: Tensor) -> list[Tensor]:
        at_own, at_other = self._side(u, u), self._side(v, v)
        foreign = self._side(u, v)  # x_u at the codes of v
        between, within = self._overlap(u, v), [part[v] for part in self._own_overlap]
        own = self._own_gram[u]
        crossed = self._gram(at_own, foreign, between)
        swapped = self._gram(foreign, foreign, within)
        content = swapped - 2 * self._gram(at_other, foreign, within) + self._own_gram[v]
        squares = [t.diagonal(dim1=1, dim2=2) for t in (own, crossed, swapped)]
        apart = (squares[0] - 2 * squares[1] + squares[2]).clamp(min=0).sqrt()  # [b, S]
        distance = (self.inputs[0][u] - self.inputs[0][v]).norm(dim=2)
        coincide = distance <= SAME_CODE * self.inputs[0][u].norm(dim=2)
        steep = torch.where(coincide, 0.0, apart / distance)
        return [
            self._gram(at_own, at_other, between).mean((1, 2)),
            self.squared_norms[u].sqrt(),
            self.squared_norms[v].sqrt(),
            (own - 2 * crossed + swapped).mean((1, 2)).clamp(min=0).sqrt(),
            content.mean((1, 2)).clamp(min=0).sqrt(),
            distance.mean(1),
            steep.amax(1),
        ]

    def grams(self, pairs: np.ndarray) -> Tensor:
        """``⟨∇ℓ(x_u, z_us), ∇ℓ(x_v, z_vt)⟩`` of all draws s and t, float64 ``[P, S, S]``."""
        n_codes = self.inputs[0].shape[1]
        blocks = [torch.empty(0, n_codes, n_codes, dtype=torch.float64)]
        blocks += [
            self._gram(self._side(u, u), self._side(v, v), self._overlap(u, v))
            for u, v in self._blocks(pairs)
        ]
        return torch.cat(blocks)

    def influences(self, pairs: np.ndarray) -> np.ndarray:
        """Only ``⟨g_u, g_v⟩``, float64 ``[P]``."""
        influences: np.ndarray = self.grams(pairs).mean((1, 2)).numpy()
        return influences

    def changes(self, pairs: np.ndarray, learning_rate: float) -> np.ndarray:
        """``L_u(θ − η g_v) − L_u(θ)`` at the same codes, nats, float64 ``[P]``.

        Exact in all layers: a step changes each weight matrix by a product of rank S, which is
        applied to the activations; only the change of the logits is float32.
        """
        blocks = [self._change(u, v, learning_rate) for u, v in self._blocks(pairs)]
        return torch.cat(blocks).numpy() if blocks else np.empty(0)

    def _change(self, u: Tensor, v: Tensor, learning_rate: float) -> Tensor:
        rate = learning_rate / self.inputs[0].shape[1]  # g_v is a mean over S codes
        moved, shift = self.inputs[0][u], torch.zeros_like(self.inputs[0][u])
        for at, delta in enumerate(self._side(v, v).deltas):
            layer, step = self.layers[at], rate * (moved @ self.inputs[at][v].mT + 1)  # [b, S, S]
            before = self.befores[at][u] + shift @ layer.weight.T - step @ delta
            moved = layer.after(before)
            shift = moved - self.inputs[at + 1][u]
        step = (rate * (moved @ self.inputs[-1][v].mT + 1)).float()
        logits = shift.float() @ self.table.T  # [b, S, I]: the change of the logits, from here on
        scaled = step * self.lengths[v].float()[:, None, None]
        logits.baddbmm_(scaled, self.probabilities[v], alpha=-1)
        row, item = self._entries(v)
        logits[row, :, item] += step.sum(2)[row]
        row, item = self._entries(u)
        own = torch.zeros(logits.shape[:2], dtype=torch.float64)
        own.index_add_(0, row, logits[row, :, item].double())
        grown = torch.linalg.vecdot(self.probabilities[u], torch.expm1(logits)).double()
        return (self.lengths[u, None] * torch.log1p(grown) - own).mean(1)

    def _entries(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Place among ``users`` and item of each entry of their histories."""
        rows = self.histories[users.numpy()]
        row = np.repeat(np.arange(len(users)), np.diff(rows.indptr))
        return torch.from_numpy(row), torch.from_numpy(rows.indices.astype(np.int64))

    def _side(self, targets: Tensor, codes: Tensor) -> _Side:
        """Gradients at single codes; of the users' own losses if ``targets`` is ``codes``."""
        if targets is codes:
            return _Side(targets, codes, [delta[codes] for delta in self._own_deltas])
        return _Side(targets, codes, self._deltas(targets, codes))

    @cached_property
    def _own_deltas(self) -> list[Tensor]:
        everyone = torch.arange(len(self.lengths))
        return self._deltas(everyone, everyone)

    def _deltas(self, targets: Tensor, codes: Tensor) -> list[Tensor]:
        """Back-propagate ``r = n π − x`` through the inner layers, ``[b, S, M]`` each."""
        back = self.lengths[targets, None, None] * self.pulled[codes]
        back -= self.own_rows[targets][:, None]
        deltas: list[Tensor] = []
        for layer, slopes in zip(reversed(self.layers), reversed(self.slopes), strict=True):
            deltas.insert(0, layer.back(back, slopes[codes]))
            back = deltas[0] @ layer.weight
        return deltas

    def _overlap(self, u: Tensor, v: Tensor) -> list[Tensor]:
        """``π·π'``, then ``a·a' + 1`` of each layer's inputs, ``[b, S, S]`` each."""
        agree = self.probabilities[u].double() @ self.probabilities[v].double().mT
        return [agree, *(a[u] @ a[v].mT + 1 for a in self.inputs)]

    def _gram(self, one: _Side, other: _Side, overlap: list[Tensor]) -> Tensor:
        """Inner products of the single codes' gradients, ``[b, S, S]``."""
        n, m = (self.lengths[side.targets, None, None] for side in (one, other))
        agree, *inputs = overlap
        residuals = n * m * agree + self.shared[one.targets, other.targets, None, None]
        residuals -= n * self.mass[other.targets, one.codes][:, :, None]
        residuals -= m * self.mass[one.targets, other.codes][:, None, :]
        total = residuals * inputs[-1]
        for delta, another, product in zip(one.deltas, other.deltas, inputs, strict=False):
            total += (delta @ another.mT) * product
        return total

    @cached_property
    def _own_overlap(self) -> list[Tensor]:
        everyone = np.arange(len(self.lengths)).repeat(2).reshape(-1, 2)
        blocks = [self._overlap(u, u) for u, _ in self._blocks(everyone)]
        return [torch.cat(parts) for parts in zip(*blocks, strict=True)]

    @cached_property
    def _own_gram(self) -> Tensor:
        everyone = torch.arange(len(self.lengths))
        side = self._side(everyone, everyone)
        return self._gram(side, side, self._own_overlap)

    def _blocks(self, pairs: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        _, n_codes, n_items = self.probabilities.shape
        size = max(1, int(BLOCK_BYTES // (4 * n_codes * n_items)))
        for start in range(0, len(pairs), size):
            u, v = torch.from_numpy(pairs[start : start + size]).T
            yield u, v


def common_noise_codes(posterior: Posterior, n_draws: int, generator: torch.Generator) -> Tensor:
    """``z_us = μ_u + σ_u ε_s`` with noise common to all users, float64 ``[N, S, K]``.

    S is ``n_draws``, and 1 for point masses; ConfigError if ``n_draws`` is below 1.
    """
    if n_draws < 1:
        raise ConfigError(f"n_draws must be at least 1, got {n_draws}.")
    codes = posterior.mu.double()[:, None]
    if posterior.logvar is None:
        return codes
    noise = torch.randn(n_draws, codes.shape[2], generator=generator, dtype=torch.float64)
    return codes + (posterior.logvar.double() / 2).exp()[:, None] * noise


def jackknife(products: Tensor, reference: Tensor) -> np.ndarray:
    """Standard error of ``mean(products) / mean(reference)``, leaving out one draw at a time.

    Both ``[P, S, S]`` over the same draws (or ``[1, S, S]``); the result ``[P]``.
    """
    n_draws = products.shape[-1]
    if n_draws == 1:
        return np.zeros(len(products))  # a point code: nothing is drawn
    ratio = _without_each(products) / _without_each(reference)
    error: np.ndarray = (ratio.var(1, correction=0) * (n_draws - 1)).sqrt().numpy()
    return error


def _without_each(products: Tensor) -> Tensor:
    """Means of ``[P, S, S]`` without row and column of each draw, ``[P, S]``."""
    own = products.diagonal(dim1=1, dim2=2)
    rest = products.sum((1, 2))[:, None] - products.sum(1) - products.sum(2) + own
    return rest / (products.shape[-1] - 1) ** 2
