"""Full-ranking evaluation: score a batch of users, rank all items but the fold-in, count hits."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut
from coterie.errors import ConfigError, DataError
from coterie.evaluation.cohorts import DEFAULT_COHORTS, Cohort
from coterie.evaluation.metrics import catalogue_metrics, exposure, find_hits, user_metrics
from coterie.evaluation.result import Evaluation
from coterie.ranking import exclude_, top_k

Progress = Callable[[int, int], None]
"""Called with the number of users done and of all users to evaluate."""


class Scorer(Protocol):
    """What evaluation needs of a model."""

    @property
    def n_items(self) -> int:
        """I, the items that it scores."""
        ...

    def score(self, fold_in: Interactions) -> Tensor:
        """Scores float32 ``[B, I]`` for B histories, higher is better; the caller may overwrite."""
        ...


def evaluate(
    scorer: Scorer,
    data: HeldOut,
    *,
    ks: Sequence[int] = (20, 50, 100),
    item_counts: np.ndarray | None = None,
    cohorts: Sequence[Cohort] = DEFAULT_COHORTS,
    batch_size: int = 500,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank all items but the fold-in for each user and measure how the held-out ones are placed.

    One batch's scores are held at a time. Users without held-out items are counted and left out.

    Parameters
    ----------
    scorer
        The model.
    data
        Fold-in and held-out items, over the scorer's items.
    ks
        Cuts of the lists.
    item_counts
        Training interactions per item, int ``[I]``; without them no novelty is measured.
    cohorts
        Groups by length of the whole history, fold-in and held-out.
    batch_size
        Users scored together.
    progress
        Called after each batch.

    Raises
    ------
    DataError
        The items are not the scorer's, or no user has a held-out item.
    ConfigError
        ``ks`` is empty or holds a number below 1, or ``batch_size`` is below 1.
    DivergenceError
        A score is NaN.
    """
    cuts = _checked(scorer, data, ks, item_counts, batch_size)
    n_held_out = data.held_out.history_lengths
    users = np.flatnonzero(n_held_out)
    if len(users) == 0:
        raise DataError(f"None of the {data.n_users} users has a held-out item to predict.")
    exposed = np.zeros((len(cuts), data.fold_in.n_items), dtype=np.int64)
    batches = []
    for at in range(0, len(users), batch_size):
        rows = users[at : at + batch_size]
        top = _top_items(scorer, data.fold_in.rows(rows), max(cuts))
        held_out = data.held_out.rows(rows)
        hits = find_hits(top, held_out.indptr, held_out.indices)
        batches.append(user_metrics(hits, n_held_out[rows], cuts))
        exposed += exposure(top, data.fold_in.n_items, cuts)
        if progress is not None:
            progress(at + len(rows), len(users))
    return Evaluation(
        per_user={name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]},
        users=users,
        user_ids=data.fold_in.user_ids.to_ids(users),
        history_lengths=data.fold_in.history_lengths[users] + n_held_out[users],
        overall=catalogue_metrics(exposed, cuts, item_counts),
        n_users=data.n_users,
        n_without_held_out=data.n_users - len(users),
        ks=cuts,
        cohorts=tuple(cohorts),
    )


def _top_items(scorer: Scorer, fold_in: Interactions, k: int) -> np.ndarray:
    """The k best items of each history but those in it; int64 ``[B, k]``."""
    with torch.inference_mode():
        scores = torch.as_tensor(scorer.score(fold_in)).contiguous()  # no expanded view to write to
        if tuple(scores.shape) != (fold_in.n_users, fold_in.n_items):
            raise DataError(
                f"score() must return [{fold_in.n_users}, {fold_in.n_items}], got "
                f"{list(scores.shape)}."
            )
        exclude_(scores, fold_in.indptr, fold_in.indices)
        top: np.ndarray = top_k(scores, k).indices.cpu().numpy()
    return top


def _checked(
    scorer: Scorer,
    data: HeldOut,
    ks: Sequence[int],
    item_counts: np.ndarray | None,
    batch_size: int,
) -> tuple[int, ...]:
    """The cuts, increasing and distinct, if all arguments fit together."""
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks needs one cut or more, each 1 or more, got {list(ks)}.")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    n_items = data.fold_in.n_items
    if scorer.n_items != n_items:
        raise DataError(
            f"The model knows {scorer.n_items} items, the data has {n_items}; evaluate on a split "
            "over the items that the model was trained on."
        )
    known = getattr(scorer, "item_ids", None)  # a recommender's; other scorers know no ids
    if known is not None and known != data.fold_in.item_ids:
        raise DataError(
            "The model knows as many items as the data has, but others or in another order; "
            "evaluate on a split over the items that the model was trained on."
        )
    if item_counts is not None and len(item_counts) != n_items:
        raise DataError(f"item_counts must have {n_items} entries, got {len(item_counts)}.")
    return tuple(sorted(set(ks)))
