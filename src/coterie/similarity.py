"""Items like a given one, a block of queries at a time: by cosine, or by a model's weights."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.errors import ConfigError, NotFittedError
from coterie.memory import rows_at_once
from coterie.models.model import Model
from coterie.ranking import TopK, exclude_, top_k

Source = Literal["auto", "anchors", "decoder", "factors", "weights"]
"""What is compared; "auto" leaves it to the model."""


def compared(model: Model, asked: Source, *, keeps_anchors: bool) -> Source:
    """What is compared where ``asked`` is asked for: never ``"auto"``.

    Raises
    ------
    ConfigError
        ``asked`` is no source.
    NotFittedError
        The model does not have it; the message names what it has.
    """
    known = get_args(Source)
    if asked not in known:
        raise ConfigError(f"source must be one of {', '.join(known)}, got {asked!r}.")
    own, name = model.similarity, model.config.name
    if own is None:
        raise NotFittedError(f"{name} has no notion of similar items.")
    if asked == "auto":
        return "anchors" if keeps_anchors else own
    if asked == "anchors" and not keeps_anchors:
        raise NotFittedError(
            f'This model keeps no anchors: it was trained without alignment. Pass source="{own}".'
        )
    if asked not in ("anchors", own):
        raise NotFittedError(f'{name} has no {asked} to compare. Pass source="{own}".')
    return asked


@torch.no_grad()
def nearest(table: Tensor, index: np.ndarray, k: int) -> TopK:
    """The k rows of ``table`` closest by cosine to each of some of its rows, without itself.

    Parameters
    ----------
    table
        float32 ``[I, D]``. A row of zeros has cosine 0 with everything.
    index
        The rows asked for, int64 ``[Q]``.
    k
        1 or more, counted as at most I; filled up with −1 where the table has too few rows.
    """
    k = min(k, max(len(table), 1))
    inverse = table.norm(dim=1).reciprocal().nan_to_num(posinf=0.0)  # [I]
    size = rows_at_once(len(table))
    parts = []
    for start in range(0, max(len(index), 1), size):
        block = torch.from_numpy(index[start : start + size])
        place = block.to(table.device)
        cosines = (table[place] * inverse[place, None]) @ table.T * inverse  # [Q, I]
        exclude_(cosines.clamp_(-1, 1), np.arange(len(block) + 1), block.numpy())
        parts.append(top_k(cosines, k))
    return TopK(
        torch.cat([part.indices for part in parts]), torch.cat([part.scores for part in parts])
    )


@torch.no_grad()
def strongest(model: Model, index: np.ndarray, k: int) -> TopK:
    """The k items to which a history of one item alone gives the highest scores, without itself.

    Parameters
    ----------
    model
        Its scores are sums of weights over the history.
    index, k
        As in :func:`nearest`. A weight of 0 is none; −1 fills up where there are too few.
    """
    k = min(k, max(model.n_items, 1))
    size = rows_at_once(model.n_items)
    parts = []
    for start in range(0, max(len(index), 1), size):
        block = torch.from_numpy(index[start : start + size])
        indptr = torch.arange(len(block) + 1)
        alone = UserBatch(indptr, block, torch.ones(len(block)), model.n_items)
        weights = model(alone.to(model.device))  # [Q, I]
        weights.masked_fill_(weights == 0, -torch.inf)
        exclude_(weights, indptr.numpy(), block.numpy())
        parts.append(top_k(weights, k))
    return TopK(
        torch.cat([part.indices for part in parts]), torch.cat([part.scores for part in parts])
    )
