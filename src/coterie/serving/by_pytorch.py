"""Lists of models that PyTorch scores: baselines, and VAEs on an accelerator."""

import numpy as np
import torch
from torch import Tensor

from coterie.data.batches import UserBatch
from coterie.ranking import top_k
from coterie.recommender import Recommender


@torch.inference_mode()
def best(
    recommender: Recommender,
    histories: list[np.ndarray],
    k: int,
    excluded: np.ndarray,
    closed: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each user and their scores, ``[B, k]``; −1 and −inf fill up.

    Parameters
    ----------
    recommender
        The model.
    histories
        Distinct items of each, int64, at least one.
    k
        1 or more.
    excluded, closed
        What must not be in the lists, as for
        :meth:`coterie.serving.output_layer.OutputLayer.best`.
    """
    batch = UserBatch.of(histories, recommender.n_items)
    scores: Tensor = recommender.model(batch.to(recommender.device))
    if closed is not None:
        scores.masked_fill_(torch.from_numpy(closed).to(scores.device), -torch.inf)
    rows, columns = torch.from_numpy(excluded).to(scores.device).T
    scores[rows, columns] = -torch.inf
    found = top_k(scores, k)
    return found.indices.cpu().numpy(), found.scores.cpu().numpy()
