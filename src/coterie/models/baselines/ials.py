"""iALS: factors of users and items by weighted least squares, alternating; trained by `implicit`.

The library trains; scoring and folding in are ours, so that a saved model needs no library.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.errors import DivergenceError, MissingExtraError
from coterie.models.model import BaselineConfig, Model, Similarity
from coterie.spaces import Choice, Range, SearchSpace

GATHERED_AT_ONCE = 1 << 22  # numbers of factors: 16 MiB
SYSTEMS_AT_ONCE = 1 << 22  # numbers of K × K systems: 16 MiB


class IalsConfig(BaselineConfig):
    """Weighted matrix factorisation."""

    name: ClassVar[str] = "ials"
    search: ClassVar[SearchSpace] = {
        "factors": Choice((32, 64, 128, 256)),
        "alpha": Range(1.0, 100.0, log=True),
        "l2": Range(0.1, 1000.0, log=True),
    }
    factors: PositiveInt = Field(128, description="K, the length of a user's and an item's vector.")
    alpha: PositiveFloat = Field(
        10.0, description="Weight of an interaction; that of every other pair is 1."
    )
    l2: PositiveFloat = Field(50.0, description="λ, the weight of the vectors' squared length.")
    iterations: PositiveInt = Field(15, description="Rounds over users and items.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Determines where the iteration begins.")


class Ials(Model):
    """Scores ``y_i · z`` with the user's vector z solved for from the history.

    ``z = (YᵀY + (α − 1) Σ_{i∈S} y_i y_iᵀ + λ)⁻¹ α Σ_{i∈S} y_i`` (equation 4), for any user, known
    or not; Y ``[I, K]`` are the items' vectors.
    """

    similarity: ClassVar[Similarity | None] = "factors"
    factors: Tensor
    gram: Tensor

    def __init__(self, config: IalsConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.alpha, self.l2 = config.alpha, config.l2
        self.register_buffer("factors", torch.empty(n_items, config.factors))
        self.register_buffer("gram", torch.empty(config.factors, config.factors))  # YᵀY

    def forward(self, batch: UserBatch) -> Tensor:
        """Scores ``[B, I]``."""
        return self.users(batch) @ self.factors.T

    def users(self, batch: UserBatch) -> Tensor:
        """The users' vectors ``[B, K]``.

        Raises
        ------
        DivergenceError
            A system is not positive definite: the factors are not finite, or λ is 0.
        """
        n_factors = self.factors.shape[1]
        padded = torch.cat([self.factors, self.factors.new_zeros(1, n_factors)])
        base = self.gram + self.l2 * torch.eye(n_factors, device=self.gram.device)
        users = self.factors.new_empty(batch.n_users, n_factors)
        for rows, items in _padded(batch, n_factors):
            liked = padded[items]  # [b, n, K]
            systems = torch.baddbmm(
                base.expand(len(rows), -1, -1), liked.mT, liked, alpha=self.alpha - 1
            )
            factor, failed = torch.linalg.cholesky_ex(systems)
            if bool(failed.any()):
                raise DivergenceError(
                    "ials: a user's vector cannot be solved for; the items' vectors are not "
                    "finite, or ials.l2 is too small. Train again with a larger one."
                )
            right = self.alpha * liked.sum(1)
            users[rows] = torch.cholesky_solve(right[..., None], factor)[..., 0]
        return users

    def item_table(self) -> Tensor:
        """Y, ``[I, K]``."""
        return self.factors


def fit(data: Interactions, config: IalsConfig, progress: Callable[[int, int], None]) -> Ials:
    """Train with ``implicit``'s conjugate-gradient solver, on the CPU.

    Raises
    ------
    MissingExtraError
        ``implicit`` is not installed.
    DivergenceError
        The factors are not finite.

    References
    ----------
    Hu, Koren & Volinsky, ICDM 2008, equation 4; Takács et al., RecSys 2011.
    """
    factors = _train(data, config, progress)
    if not np.isfinite(factors).all():
        raise DivergenceError(
            "ials: the factors are not finite; raise ials.l2 or lower ials.alpha."
        )
    model = Ials(config, data.n_items)
    model.factors.copy_(torch.from_numpy(factors))
    torch.matmul(model.factors.T, model.factors, out=model.gram)
    return model


def _train(
    data: Interactions, config: IalsConfig, progress: Callable[[int, int], None]
) -> np.ndarray:
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError(
            "ials is trained by implicit, which is not installed: pip install 'coterie[ials]'"
        ) from error
    confidence = sp.csr_matrix(data.to_scipy() * np.float32(config.alpha))

    def done(iteration: int, seconds: float, loss: Any) -> None:
        progress(iteration + 1, config.iterations)

    with threadpool_limits(1, "blas"):  # the library has threads of its own and warns of others
        trained = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.l2,
            iterations=config.iterations,
            random_state=config.seed,
        )
        trained.fit(confidence, show_progress=False, callback=done)
    factors: np.ndarray = trained.item_factors
    return factors


def _padded(batch: UserBatch, n_factors: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Users ``[b]`` of similar history length, and their items ``[b, n]`` filled up with I."""
    lengths, order = batch.lengths.sort(descending=True, stable=True)
    most, start = max(SYSTEMS_AT_ONCE // n_factors**2, 1), 0
    while start < batch.n_users:
        longest = int(lengths[start])
        size = min(max(GATHERED_AT_ONCE // (max(longest, 1) * n_factors), 1), most)
        rows, n = order[start : start + size], lengths[start : start + size, None]
        at = torch.arange(longest, device=order.device)
        inside = at < n
        place = torch.where(inside, batch.indptr[rows, None] + at, 0)
        yield rows, torch.where(inside, batch.indices[place], batch.n_items)
        start += size
