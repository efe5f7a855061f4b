"""The anchors of Personalized Item Alignment, and the weights of a user's items.

They answer the objections to a single, evenly weighted centroid of free anchors: popular items may
dominate it, it may lie between a user's tastes, and an anchor for each of millions of items costs
memory. The formulas are in :mod:`coterie.objectives.alignment`. Anchors exist in training only; the
model that is served never reads them.
"""

from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from coterie.config import Config, must_be_default
from coterie.data.batches import UserBatch
from coterie.errors import ConfigError
from coterie.models.tables import TableGradients, rows_per_chunk, store_gradient
from coterie.models.vae import VAE
from coterie.objectives.alignment import centroids, pull, soft_minimum, weighted_centroids

SECONDS_PER_DAY = 86_400


class AnchorConfig(Config):
    """Where anchors come from, and how a user's items count."""

    kind: Literal["free", "low-rank", "decoder-tied", "encoder-tied"] = Field(
        "free",
        description="free: a vector of its own for each item; low-rank: a shorter vector times a "
        "matrix; tied: the item's row in the decoder's or the encoder's table times a matrix.",
    )
    rank: PositiveInt = Field(32, description="low-rank: length of an item's vector, below K.")
    weighting: Literal["uniform", "inverse-popularity", "recency", "rating"] = Field(
        "uniform", description="How a user's items count in the centroid."
    )
    exponent: PositiveFloat = Field(
        0.5, description="inverse-popularity: weight = users per item ** -exponent."
    )
    half_life_days: PositiveFloat = Field(
        30.0, description="recency: an item this much older than the user's last counts half."
    )
    n_centroids: PositiveInt = Field(
        1, description="Centroids per user; the code is pulled to the nearest ones."
    )
    temperature: PositiveFloat = Field(
        1.0, description="Above one centroid: how softly the nearest is chosen (squared distance)."
    )

    @model_validator(mode="after")
    def _unused_settings_are_untouched(self) -> Self:
        must_be_default(self, "rank", used=self.kind == "low-rank", by="kind='low-rank'")
        must_be_default(
            self,
            "exponent",
            used=self.weighting == "inverse-popularity",
            by="weighting='inverse-popularity'",
        )
        must_be_default(
            self, "half_life_days", used=self.weighting == "recency", by="weighting='recency'"
        )
        must_be_default(self, "temperature", used=self.n_centroids > 1, by="n_centroids > 1")
        return self

    def check(self, latent_dim: int) -> None:
        """Raise :class:`ConfigError` if low-rank anchors are no shorter than K."""
        if self.kind == "low-rank" and self.rank >= latent_dim:
            raise ConfigError(
                f"Low-rank anchors need a rank below latent_dim={latent_dim}, got {self.rank}; "
                "lower anchors.rank, or choose free anchors."
            )

    @property
    def plain(self) -> bool:
        """Whether this is PIA as published: free anchors, even weights, one centroid."""
        return (self.kind, self.weighting, self.n_centroids) == ("free", "uniform", 1)


class _RowsGradient:
    """Zero but for the rows that were read."""

    def __init__(self, rows: Tensor, items: Tensor, n_items: int) -> None:
        self.per_chunk = rows_per_chunk(n_items, items.device)
        starts = torch.arange(0, n_items, self.per_chunk, device=items.device)
        self.bounds = [*torch.searchsorted(items, starts).tolist(), len(items)]
        self.rows, self.items = rows, items

    def chunk(self, start: int, stop: int) -> Tensor:
        at = start // self.per_chunk
        mine = slice(self.bounds[at], self.bounds[at + 1])
        rows = self.rows.new_zeros(stop - start, self.rows.shape[1])
        rows[self.items[mine] - start] = self.rows[mine]
        return rows


class _ReadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, items: Tensor, gradients: TableGradients | None) -> Tensor:
        ctx.table, ctx.items, ctx.gradients = table, items, gradients
        return table.detach()[items]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        gradient = _RowsGradient(grads[0], ctx.items, len(ctx.table))
        return store_gradient(ctx.gradients, ctx.table, gradient), None, None


def read_rows(table: Tensor, items: Tensor, gradients: TableGradients | None = None) -> Tensor:
    """``table[items]``, whose gradient goes where those of item tables go.

    Parameters
    ----------
    table
        ``[I, D]``.
    items
        int64 ``[N]``, strictly increasing.
    gradients
        Where the table's gradient goes in training; None leaves it to autograd.
    """
    rows: Tensor = _ReadRows.apply(table, items, gradients)  # type: ignore[no-untyped-call]
    return rows


def items_of(batch: UserBatch) -> tuple[Tensor, Tensor]:
    """The batch's items, int64 ``[N]`` increasing, and each entry's place among them ``[nnz]``."""
    present = torch.zeros(batch.n_items, dtype=torch.bool, device=batch.indices.device)
    present[batch.indices] = True
    places = present.cumsum(0) - 1
    return present.nonzero()[:, 0], places[batch.indices]


def popularity_weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    """``(c_i / c_min) ** -exponent`` for items with c_i > 0 users, float32 ``[I]``; else 1."""
    used = counts > 0
    weights = np.ones(len(counts))
    weights[used] = (counts[used] / counts[used].min()) ** -exponent
    return weights.astype(np.float32)


def recency_weights(batch: UserBatch, half_life_days: float) -> Tensor:
    """``2 ** −(age / half-life)``, age before the user's own last entry; float32 ``[nnz]``."""
    assert batch.timestamps is not None, "the loop asks for them: see ObjectiveConfig.extras"
    rows, times = batch.rows, batch.timestamps
    last = times.new_zeros(batch.n_users)
    last = last.scatter_reduce(0, rows, times, "amax", include_self=False)
    age = (last[rows] - times).double() / (half_life_days * SECONDS_PER_DAY)
    return torch.exp2(-age).float()


def entry_weights(batch: UserBatch, config: AnchorConfig, item_weights: Tensor | None) -> Tensor:
    """How much each entry counts, ``[nnz]``, at least 0; they do not add up to 1.

    ``item_weights`` are :func:`popularity_weights`'.
    """
    match config.weighting:
        case "uniform":
            return torch.ones_like(batch.scale)[batch.rows]
        case "inverse-popularity":
            assert item_weights is not None, "the objective was not prepared"
            return item_weights[batch.indices]
        case "recency":
            return recency_weights(batch, config.half_life_days)
        case "rating":
            assert batch.values is not None, "the loop asks for them: see ObjectiveConfig.extras"
            return batch.values


class Anchors(nn.Module):
    """One anchor ``e_i`` per item, ``[I, K]`` when written out; used in training only.

    ``free``: ``e_i`` is the item's row of a table ``[I, K]``. ``low-rank``: the row of a table
    ``[I, rank]`` times a matrix ``[rank, K]``. Tied: the row of the decoder's or the encoder's item
    table ``[I, D]`` times a matrix ``[D, K]``, or the row itself where D = K (a decoder without
    hidden layers, whose logits are products of z with these rows). A tied table has the gradients
    of both uses. All matrices are learned.

    With ``n_centroids`` = M > 1, M learned queries ``q_m`` divide the items into tastes:
    ``r_im = softmax_m(√K ⟨q_m, e_i⟩)``, and centroid m of a user is the mean of the anchors with
    the weights ``w_i r_im`` (as in slot attention, arXiv 2006.15055, which also normalises over
    the slots). :func:`soft_minimum` combines the pulls towards them.

    Parameters
    ----------
    config
        Kind, weighting and number of centroids.
    model
        Gives the sizes; it is not kept.
    """

    def __init__(self, config: AnchorConfig, model: VAE) -> None:
        super().__init__()
        self.config = config
        n_items, latent_dim = model.n_items, model.config.latent_dim
        self.table: nn.Parameter | None = None
        self.projection: nn.Parameter | None = None
        self.queries: nn.Parameter | None = None
        if config.kind in ("free", "low-rank"):
            width = latent_dim if config.kind == "free" else config.rank
            self.table = nn.Parameter(torch.zeros(n_items, width))
        width = self.source(model).shape[1]
        if config.kind != "free" and width != latent_dim:
            self.projection = nn.Parameter(torch.zeros(width, latent_dim))
        if config.n_centroids > 1:
            self.queries = nn.Parameter(torch.zeros(config.n_centroids, latent_dim))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Free and low-rank anchors and queries begin with a norm of about one.

        Tables are drawn from N(0, 1/width), queries and the matrix of low-rank anchors from
        N(0, 1/K), the matrix of tied ones as Xavier-normal.
        """
        with torch.no_grad():
            if self.table is not None:
                self.table.normal_(0, self.table.shape[1] ** -0.5, generator=generator)
            if self.projection is not None:
                width, latent_dim = self.projection.shape
                variance = 2 / (width + latent_dim) if self.table is None else 1 / latent_dim
                self.projection.normal_(0, variance**0.5, generator=generator)
            if self.queries is not None:
                self.queries.normal_(0, self.queries.shape[1] ** -0.5, generator=generator)

    def source(self, model: VAE) -> Tensor:
        """The table with one row per item that anchors are made of, ``[I, D]``."""
        if self.table is not None:
            return self.table
        table: Tensor = (
            model.decoder if self.config.kind == "decoder-tied" else model.encoder
        ).table
        return table

    def whole(self, model: VAE) -> Tensor:
        """All anchors, detached, ``[I, K]``."""
        return self._projected(self.source(model)).detach()

    def forward(
        self,
        mu: Tensor,
        model: VAE,
        batch: UserBatch,
        item_weights: Tensor | None = None,
        gradients: TableGradients | None = None,
    ) -> Tensor:
        """Pull on the codes ``mu`` ``[B, K]`` of the histories, per user, ``[B]``.

        Cost O(nnz · K · M), and for anchors with a matrix O(N · D · K) for the N items of the
        batch; no tensor of I × K but a free table's gradient, and none of users times items.
        """
        config, source = self.config, self.source(model)
        if config.plain:
            return pull(mu, *centroids(source, batch, gradients))
        items, places = items_of(batch)
        anchors = self._projected(read_rows(source, items, gradients))
        weights = entry_weights(batch, config, item_weights)
        if self.queries is None:
            centroid, mean_square, _ = weighted_centroids(anchors, places, weights, batch)
            return pull(mu, centroid, mean_square)
        tastes = self._tastes(anchors)[places] * weights[:, None]
        parts = [
            weighted_centroids(anchors, places, taste.contiguous(), batch)
            for taste in tastes.unbind(1)
        ]
        return soft_minimum(
            torch.stack([pull(mu, centroid, square) for centroid, square, _ in parts], 1),
            torch.stack([mass for _, _, mass in parts], 1),
            config.temperature,
        )

    def _projected(self, rows: Tensor) -> Tensor:
        return rows if self.projection is None else rows @ self.projection

    def _tastes(self, anchors: Tensor) -> Tensor:
        """``r`` ``[N, M]``; logits of about one at the start, so that the tastes differ at once."""
        assert self.queries is not None
        logits: Tensor = anchors @ self.queries.T * self.queries.shape[1] ** 0.5
        return torch.softmax(logits, 1)
