"""Centroids of a history's anchors, for models that kept none too (Prop. 3.1)."""

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from coterie.data.interactions import Interactions


def fitted_anchors(user_items: Interactions, means: Tensor) -> np.ndarray:
    """The anchors ``[I, K]`` that minimise ``L_A`` for codes that stay: our derivation.

    ``e_i = Σ_{u∋i} μ_u/n_u  /  Σ_{u∋i} 1/n_u``, from the zero of the gradient of the mean over
    users of ``(1/n_u) Σ_{i∈S_u} ‖μ_u − e_i‖²``; with several masks ``μ_u`` is their mean. They
    exist for every model, also for one trained without alignment, so models compare. Zero for
    items that nobody has. O(nnz · K).

    Parameters
    ----------
    user_items
        Whole histories ``[U, I]``.
    means
        ``[U, K]``, row by row the codes of those users.
    """
    shares = shares_of(user_items)
    weights = np.asarray(shares.sum(0))
    sums: np.ndarray = shares.T @ means.double().numpy()
    return sums / np.where(weights > 0, weights, 1)[:, None]


def shares_of(user_items: Interactions) -> sp.csr_array:
    """``1/n_u`` for each of a user's items: a row times anchors is their centroid."""
    lengths = user_items.history_lengths
    return sp.csr_array(
        (1 / np.repeat(lengths, lengths), user_items.indices, user_items.indptr),
        shape=(user_items.n_users, user_items.n_items),
    )
