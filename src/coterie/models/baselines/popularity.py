"""The most popular items for everybody."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.data.interactions import Interactions
from coterie.models.model import BaselineConfig, Model


class PopularityConfig(BaselineConfig):
    """Nothing to set."""

    name: ClassVar[str] = "popularity"


class Popularity(Model):
    """The score of an item is the number of its training users, for any history."""

    counts: Tensor

    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("counts", torch.empty(n_items))

    def forward(self, batch: UserBatch) -> Tensor:
        """Scores ``[B, I]``, in users."""
        return self.counts.repeat(batch.n_users, 1)


def fit(
    data: Interactions, config: PopularityConfig, progress: Callable[[int, int], None]
) -> Popularity:
    """Count the users of each item."""
    model = Popularity(config, data.n_items)
    model.counts.copy_(torch.from_numpy(data.item_counts()))
    progress(1, 1)
    return model
