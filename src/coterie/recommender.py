"""What a user holds: a trained model with its catalogue; users never seen are folded in."""

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from coterie.data.batches import user_batch
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.models.vae import VAE


class Recommender:
    """A trained model, the catalogue it knows, and how popular each item was in training.

    Parameters
    ----------
    model
        The network; it is used where it is (device) and as it is (no copy).
    item_ids
        External ids of the I items, in the model's order.
    item_counts
        Training users per item, int64 ``[I]``; what users without a known history are given.
    items
        Optional table about the items: column ``item_id`` and, for example, ``title``.
    anchors
        Optional item anchors of Personalized Item Alignment, float32 ``[I, K]``, for
        similar-item queries.
    metadata
        Facts about training (settings, figures, seeds); only what JSON can hold.

    Raises
    ------
    DataError
        The sizes do not fit together.
    """

    def __init__(
        self,
        model: VAE,
        item_ids: IdMap,
        item_counts: np.ndarray,
        *,
        items: pl.DataFrame | None = None,
        anchors: Tensor | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.item_ids = item_ids
        self.item_counts = np.asarray(item_counts, dtype=np.int64)
        self.items = items
        self.anchors = anchors
        self.metadata = metadata or {}
        sizes = {"item ids": len(item_ids), "item counts": len(self.item_counts)}
        if anchors is not None:
            sizes["anchors"] = len(anchors)
        for what, size in sizes.items():
            if size != model.n_items:
                raise DataError(
                    f"The model has {model.n_items} items, but there are {size} {what}."
                )

    @property
    def n_items(self) -> int:
        """I, the size of the catalogue."""
        return self.model.n_items

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.encoder.table.device

    @torch.no_grad()  # not inference_mode: the caller may overwrite the scores
    def score(self, fold_in: Interactions) -> Tensor:
        """Logits of all items for each row of ``fold_in``: float32 ``[B, I]``, higher is better.

        They come from the posterior mean, so that they are deterministic. The result is a new
        tensor on the model's device, which the caller may overwrite.
        """
        if fold_in.item_ids is not self.item_ids and fold_in.item_ids != self.item_ids:
            fold_in = fold_in.select_items(self.item_ids)
        batch = user_batch(fold_in, np.arange(fold_in.n_users)).to(self.device)
        logits: Tensor = self.model(batch)
        return logits
