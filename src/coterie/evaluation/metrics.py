"""Ranking metrics from top-k lists and held-out items; per user, and over the whole catalogue.

n is the number of a user's held-out items, h the number of them among the first k of the list.

================== ============================================== ================================
name               definition                                     known elsewhere as
================== ============================================== ================================
``recall@k``        h / n                                         recall (RecBole, ranx, trec_eval,
                                                                  LightGCN's and Gowalla's figures)
``recall_capped@k`` h / min(k, n)                                 Recall@R of Liang et al. 2018 and
                                                                  of the published ML-20M figures;
                                                                  RecPack's CalibratedRecallK
``precision@k``     h / k, also where the list is shorter         P_k (trec_eval)
``hit_rate@k``      1 if h > 0, else 0                            hit ratio, success (trec_eval)
``mrr@k``           1 / rank of the first hit, 0 without one      reciprocal rank (cut at k)
``map@k``           sum over hits of (hits up to it / its rank),  map_cut (trec_eval), ranx; others
                    divided by n                                  divide by min(k, n)
``ndcg@k``          sum over hits of 1/log2(1 + rank), divided    ndcg_cut (trec_eval), ranx; NDCG@R
                    by the same sum for min(k, n) hits on top     of Liang et al. 2018
``coverage@k``      share of the catalogue that is in any list    catalogue coverage
``gini@k``          Gini index of how often items are in lists,   0: all equally often,
                    items in no list included                     near 1: a few take all
``novelty@k``       mean of -log2(share of the training           mean self-information, in bits
                    interactions) over all places in lists
================== ============================================== ================================
"""

from collections.abc import Sequence

import numpy as np

PER_USER = ("recall", "recall_capped", "ndcg", "map", "mrr", "precision", "hit_rate")
OVERALL = ("coverage", "gini", "novelty")


def find_hits(top: np.ndarray, indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Which places of the lists hold a held-out item.

    Parameters
    ----------
    top
        Item indices, int64 ``[B, K]``, best first; −1 where a list is shorter.
    indptr, indices
        Held-out items in CSR form, int64 ``[B + 1]`` and integer ``[nnz]``, increasing in each row.

    Returns
    -------
    np.ndarray
        bool ``[B, K]``.
    """
    if len(indices) == 0:
        return np.zeros(top.shape, dtype=bool)
    n_rows = len(top)
    width = int(max(indices.max(), top.max(initial=0))) + 1
    # Keys row·width + item are sorted, because the rows are: one binary search finds all.
    wanted = np.repeat(np.arange(n_rows), np.diff(indptr)) * width + indices
    keys = np.arange(n_rows)[:, None] * width + top
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    hits: np.ndarray = (wanted[place] == keys) & (top >= 0)
    return hits


def user_metrics(
    hits: np.ndarray, n_held_out: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """All per-user metrics at all cuts.

    Parameters
    ----------
    hits
        bool ``[B, K]`` from :func:`find_hits`, K ≥ max(ks).
    n_held_out
        int ``[B]``, 1 or more each.
    ks
        Cuts.

    Returns
    -------
    dict
        ``"ndcg@100"`` and so on → float64 ``[B]``, within [0, 1].
    """
    longest = max(ks)
    rank = np.arange(1, longest + 1)
    hits = hits[:, :longest]
    so_far = np.cumsum(hits, axis=1)  # hits among the first 1 … K
    discount = 1 / np.log2(1 + rank)
    gain = np.cumsum(hits * discount, axis=1)
    ideal = np.cumsum(discount)
    precision_at_hits = np.cumsum(hits * (so_far / rank), axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, longest + 1)
    result = {}
    for k in ks:
        n_hits, at_most = so_far[:, k - 1], np.minimum(k, n_held_out)
        result[f"recall@{k}"] = n_hits / n_held_out
        result[f"recall_capped@{k}"] = n_hits / at_most
        result[f"ndcg@{k}"] = gain[:, k - 1] / ideal[at_most - 1]
        result[f"map@{k}"] = precision_at_hits[:, k - 1] / n_held_out
        result[f"mrr@{k}"] = np.where(first <= k, 1 / first, 0.0)
        result[f"precision@{k}"] = n_hits / k
        result[f"hit_rate@{k}"] = (n_hits > 0).astype(np.float64)
    return {f"{name}@{k}": result[f"{name}@{k}"] for name in PER_USER for k in ks}


def exposure(top: np.ndarray, n_items: int, ks: Sequence[int]) -> np.ndarray:
    """How many of the lists, cut at each k, hold each item; int64 ``[len(ks), I]``."""
    counts = np.empty((len(ks), n_items), dtype=np.int64)
    for row, k in enumerate(ks):
        # −1 (no item) is counted in column 0, which is left out
        counts[row] = np.bincount(top[:, :k].ravel() + 1, minlength=n_items + 1)[1:]
    return counts


def catalogue_metrics(
    exposed: np.ndarray, ks: Sequence[int], item_counts: np.ndarray | None = None
) -> dict[str, float]:
    """Coverage, Gini index and, if the items' training counts are given, novelty.

    Parameters
    ----------
    exposed
        int ``[len(ks), I]`` from :func:`exposure`, summed over all users.
    item_counts
        Training interactions per item, int ``[I]``; an item without one counts as having one.
    """
    result = {}
    n_items = exposed.shape[1]
    for k, counts in zip(ks, exposed, strict=True):
        result[f"coverage@{k}"] = float(np.count_nonzero(counts) / n_items)
        result[f"gini@{k}"] = gini(counts)
        if item_counts is not None:
            share = np.maximum(item_counts, 1) / max(item_counts.sum(), 1)
            result[f"novelty@{k}"] = float(-np.log2(share) @ counts / max(counts.sum(), 1))
    names = OVERALL if item_counts is not None else OVERALL[:-1]
    return {f"{name}@{k}": result[f"{name}@{k}"] for name in names for k in ks}


def gini(counts: np.ndarray) -> float:
    """Gini index of non-negative counts ``[I]``: half the relative mean absolute difference."""
    total, n = counts.sum(), len(counts)
    if total == 0:
        return 0.0
    position = 2 * np.arange(1, n + 1) - n - 1
    return float(position @ np.sort(counts) / (n * total))
