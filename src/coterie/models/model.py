"""What a recommender needs of a model, be it a VAE or a baseline."""

from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.config import Config
from coterie.data.batches import UserBatch
from coterie.errors import NotFittedError
from coterie.models.config import ModelConfig
from coterie.models.posterior import Posterior
from coterie.spaces import SearchSpace

Similarity = Literal["decoder", "factors", "weights"]


class BaselineConfig(Config):
    """Settings of a baseline."""

    name: ClassVar[str]
    """What it is called everywhere."""
    search: ClassVar[SearchSpace] = {}
    """What is worth tuning, by setting."""


class Model(nn.Module):
    """Scores all items for a batch of histories; whoever has the history need not be known.

    A subclass has ``forward(batch) -> scores``, float32 ``[B, I]``, new memory that the caller may
    overwrite; scores do not depend on the order of a history's items.

    Parameters
    ----------
    config
        What it was made with.
    n_items
        I, the size of the catalogue.
    """

    similarity: ClassVar[Similarity | None] = None
    """What tells which items are alike: rows of :meth:`item_table`, by cosine; or the ``weights``
    that a history of one item gives to all others; None if nothing does."""

    sized_by: ClassVar[tuple[str, ...]] = ()
    """Sizes of tensors that neither ``config`` nor ``n_items`` determines: arguments of the
    constructor, attributes of the model, and facts of a saved model."""

    def __init__(self, config: ModelConfig | BaselineConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def n_parameters(self) -> int:
        """How many numbers were learned or computed from the training data."""
        learned = (weight for weight in self.parameters() if weight.requires_grad)
        computed = (buffer for buffer in self.buffers() if buffer.is_floating_point())
        return sum(tensor.numel() for tensor in chain(learned, computed))

    def facts(self) -> dict[str, Any]:
        """Name and settings, as JSON holds them."""
        return {"name": self.config.name, **self.config.model_dump(mode="json")}

    def item_table(self) -> Tensor:
        """One vector per item, ``[I, D]``; alike where items are."""
        raise NotFittedError(f"{self.config.name} has no vectors of items.")

    def encode(self, batch: UserBatch) -> Posterior:
        """Posterior of each user's history, ``[B, K]``; only a VAE has one."""
        raise NotFittedError(
            f"{self.config.name} is no autoencoder: it scores items without a latent posterior to "
            "encode users to. Load a VAE for that."
        )

    def check(self) -> None:
        """Raise :class:`DataError` if tensors that were read from a file would break scoring."""
