"""How scores fall when items of a history are left out, one at a time, or all."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.mechanisms.encoding import USERS_AT_ONCE
from coterie.mechanisms.measurement import Budget, SampleSize, choose
from coterie.models.model import Model
from coterie.models.vae import VAE


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Scores of m items, in float64.

    Parameters
    ----------
    sample
        Items left out in turn, of all of the history.
    places
        Theirs in the history, ``[n]``.
    score, nothing
        With the whole history, and with none, ``[m]``.
    without
        Without each item, ``[n, m]``.
    """

    sample: SampleSize
    places: np.ndarray
    score: np.ndarray
    nothing: np.ndarray
    without: np.ndarray


@torch.no_grad()
def leave_one_out(
    model: Model,
    history: np.ndarray,
    items: np.ndarray,
    *,
    generator: torch.Generator,
    budget: Budget,
) -> LeftOut:
    """Leave out as many items of the history, one at a time, as the budget allows."""
    width = model.decoder.table.shape[1] if isinstance(model, VAE) else len(history)
    sample = budget.most(
        len(history),
        operations=2.0 * (model.n_items + len(history)) * width,
        memory=8.0 * (model.n_items + 2 * len(history)),
        least=1,
        unit="items of the history",
    )
    places = choose(np.arange(len(history)), sample.used, generator)
    size = int(budget.memory // (16 * (model.n_items + len(history))))
    size = max(1, min(USERS_AT_ONCE, size))
    parts = [
        item_scores(
            model,
            without_each(history, places[start : start + size], model.n_items),
            history,
            items,
        )
        for start in range(0, len(places), size)
    ]
    ends = [
        item_scores(model, UserBatch.of([of], model.n_items), history, items)[0].numpy()
        for of in (history, history[:0])
    ]
    return LeftOut(sample, places, ends[0], ends[1], torch.cat(parts).numpy())


@torch.no_grad()
def item_scores(model: Model, batch: UserBatch, history: np.ndarray, items: np.ndarray) -> Tensor:
    """Log-probability of ``items`` among all that are not in ``history``, ``[B, m]`` in float64.

    The histories of the batch may be parts of ``history``; the items in question stay the same,
    so that the scores compare. Of a baseline: its own scores.
    """
    logits: Tensor = model(batch.to(model.device)).double().cpu()
    if not isinstance(model, VAE):
        return logits[:, items]
    logits[:, history] = -torch.inf
    return logits[:, items] - torch.logsumexp(logits, 1, keepdim=True)


def without_each(history: np.ndarray, left_out: np.ndarray, n_items: int) -> UserBatch:
    """One row per place in ``left_out``: the history ``[n]`` without the item there."""
    n, rows = len(history), len(left_out)
    kept = np.ones((rows, n), dtype=bool)
    kept[np.arange(rows), left_out] = False
    indices = np.broadcast_to(history, (rows, n))[kept]
    scale = torch.full((rows,), max(n - 1, 1) ** -0.5)
    indptr = torch.arange(rows + 1) * (n - 1)
    return UserBatch(indptr, torch.from_numpy(indices), scale, n_items)
