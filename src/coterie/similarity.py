"""Nearest items by cosine, a block of queries at a time."""

import numpy as np
import torch
from torch import Tensor

from coterie.ranking import TopK, exclude_, top_k
from coterie.request import rows_at_once


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
    size = rows_at_once(len(table), None)
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
