"""One user explained, within a budget; several may wait, one is measured at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.data.interactions import Interactions
from coterie.errors import CoterieError
from coterie.serving.served import ExternalItem, ServedModel

MEMORY = 2.5e8  # bytes that one explanation may take


@dataclass(frozen=True, eq=False, slots=True)
class Why:
    """Whom to explain.

    Parameters
    ----------
    model
        Which one.
    user
        The id, if known; nobody helps themselves.
    history
        Item ids, at least one.
    items
        Items to explain; None takes the user's best.
    k
        How many items, neighbours and contributions.
    seconds
        The budget.
    """

    model: ServedModel
    user: str | None
    history: Sequence[ExternalItem]
    items: Sequence[ExternalItem] | None
    k: int
    seconds: float


def explain_each(asked: Sequence[Why]) -> list[dict[str, Any] | Exception]:
    """What :func:`coterie.mechanisms.explanation.explain` says, as JSON holds it."""
    return [_explained(why) for why in asked]


def _explained(why: Why) -> dict[str, Any] | Exception:
    import torch  # takes seconds; a server that explains has imported it for the model

    from coterie.mechanisms.explanation import explain
    from coterie.mechanisms.measurement import Budget

    community = why.model.community
    assert community is not None
    try:
        found = explain(
            why.model.require_recommender(),
            list(why.history),
            community if why.user is None else _without(why.user, community),
            items=why.items,
            k=why.k,
            generator=torch.Generator().manual_seed(0),
            budget=Budget(why.seconds, MEMORY),
        )
    except CoterieError as error:
        return error
    facts = found.to_dict()
    del facts["name"]
    return {
        "user": why.user,
        "model": why.model.name,
        "version": why.model.version,
        "history_items": found.n_history,
        "skipped": found.skipped,
        **facts,
    }


def _without(user: str, community: Interactions) -> Interactions:
    row = int(community.user_ids.to_index([user])[0])
    if row < 0:
        return community
    return community.rows(np.delete(np.arange(community.n_users), row))
