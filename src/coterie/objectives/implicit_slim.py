"""ImplicitSLIM: item tables that know what a linear item-item model would, without that model.

SLIM-like models have a weight B_ij for every pair of items. ImplicitSLIM asks for item vectors V of
which each is close to the weighted sum of the others' (locally linear embedding with B as weights),
and which still agree with the present vectors W along them::

    V = argmin ‖V (1 − B)‖² + α ‖(V − W) Aᵀ‖²,       V, W of shape [H, I], A as W

``A`` is ``W`` with the vectors of rarely seen items set to 0. With EASE's B, the diagonal of whose
inverse Gram matrix is taken to be that of the Gram matrix, inverted, ``1 − B = C⁻¹ D⁻¹`` for
``C = XᵀX + λ`` and ``D = 1 / diag C``. Hence, by Woodbury's identity,

    V = α W Aᵀ (1 + α A R Aᵀ)⁻¹ A R,                 R = C D² C

where no matrix of items times items is left, nor any inverse larger than ``[H, H]``.

Source: Shenbin & Nikolenko, ICLR 2024, arXiv 2406.00198, section 3. The minimisation and its
solution as above are our reading of the authors' code, to which they lead; the code rounds A to
half precision, this does not.
"""

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from coterie.config import Config, must_be_default
from coterie.data.batches import user_batch
from coterie.data.interactions import Interactions
from coterie.models.tables import TransposedRowSums, chunk_bounds, row_sums
from coterie.models.vae import VAE

USERS_AT_ONCE = 4096  # whose sums ``[users, H]`` are held


class ImplicitSlimConfig(Config):
    """When and how ImplicitSLIM takes the place of item tables."""

    initial: bool = Field(False, description="Before the first epoch, on the drawn weights.")
    every: PositiveInt | None = Field(
        None,
        description="Again after this many epochs (sets of epochs where parts alternate); none: "
        "never.",
    )
    tables: Literal["both", "encoder", "decoder"] = Field(
        "both", description="Whose item table is replaced."
    )
    l2: PositiveFloat = Field(100.0, description="λ, the item-item model's L2 weight.")
    alpha: PositiveFloat = Field(
        1.0, description="α: the larger, the closer to the table that was there."
    )
    min_users: int = Field(
        1, ge=0, description="Items of fewer users have no say in what the table was."
    )

    @model_validator(mode="after")
    def _unused_settings_are_untouched(self) -> Self:
        for name in ("tables", "l2", "alpha", "min_users"):
            used = self.initial or self.every is not None
            must_be_default(self, name, used=used, by="initial=true or every")
        return self

    def due(self, epoch: int, epochs_per_set: int = 1) -> bool:
        """Whether the tables are replaced before the given epoch (0 for the first)."""
        if epoch == 0:
            return self.initial
        return self.every is not None and epoch % (self.every * epochs_per_set) == 0


def gram_product(data: Interactions, table: Tensor) -> Tensor:
    """``Xᵀ X @ table``, ``[I, D]``, a block of users at a time: O(nnz · D), no ``[I, I]``."""
    product = torch.zeros_like(table)
    for start in range(0, data.n_users, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, data.n_users))
        batch = user_batch(data, users).to(table.device)
        sums = TransposedRowSums(batch, row_sums(table, batch))
        for first, last in chunk_bounds(table):
            product[first:last] += sums.chunk(first, last)
    return product


@torch.no_grad()
def implicit_slim(
    table: Tensor, data: Interactions, *, l2: float, alpha: float, min_users: int
) -> Tensor:
    """The item vectors ``Vᵀ`` that ImplicitSLIM puts in the place of a table, ``[I, H]``.

    A function of its arguments, without randomness. Memory O(I · H), time O(nnz · H + I · H²).

    Parameters
    ----------
    table
        ``Wᵀ``, ``[I, H]``: the present vectors.
    data
        X, the training users' histories, on the table's items.
    l2
        λ > 0; the authors search from 10 to 1000 on MovieLens-20M.
    alpha
        α > 0; they search from 0.01 to 10.
    min_users
        Items with fewer users are set to 0 in ``A``; they search from 1 to 1000.
    """
    counts = torch.from_numpy(data.item_counts()).to(table.device, table.dtype)
    known = table * (counts >= min_users)[:, None]

    def gram(vectors: Tensor) -> Tensor:
        return gram_product(data, vectors).add_(vectors, alpha=l2)

    shrunk = gram(known).div_((counts[:, None] + l2).square())
    related = gram(shrunk)  # (A R)ᵀ
    # Small matrices [H, H] in double precision: their entries span many orders of magnitude.
    agreement = (known.T @ related).double()
    system = torch.eye(len(agreement), dtype=torch.double, device=table.device) + alpha * agreement
    mixing = torch.linalg.solve(system, (known.T @ table).double())
    vectors: Tensor = related @ (alpha * mixing).to(table.dtype)
    return vectors


def replace_tables(model: VAE, data: Interactions, config: ImplicitSlimConfig) -> None:
    """Put ImplicitSLIM's vectors in the place of the model's item tables.

    As in the authors' code for RecVAE; the optimiser's moments stay as they are.
    """
    for name in ("encoder", "decoder"):
        if config.tables in ("both", name):
            table: Tensor = getattr(model, name).table
            new = implicit_slim(
                table.detach(),
                data,
                l2=config.l2,
                alpha=config.alpha,
                min_users=config.min_users,
            )
            with torch.no_grad():
                table.copy_(new)
