"""Far-but-related pairs: users whose histories differ in most items and yet share a taste.

Both histories are compared item by item, each item weighted by how much likelier the user's own
code makes it than the users' codes on average. So a blockbuster in common counts little, and an
item that the model takes as both users' own taste counts much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from coterie.data.interactions import Interactions
from coterie.errors import DataError
from coterie.mechanisms.encoding import encode
from coterie.mechanisms.gradients import DecoderGradients, common_noise_codes
from coterie.mechanisms.measured_pairs import MeasuredPairs
from coterie.models.vae import VAE

TITLES_SHOWN = 4
DECODED_BYTES = 6.4e7  # of float64 logits held at once by tastes
SCORED_BYTES = 2.5e8  # of probabilities held at once by pair_scores


@dataclass(frozen=True, eq=False)
class RelatedPair:
    """A global pair with much taste in common.

    Parameters
    ----------
    user, other
        Internal indices.
    input_distance
        ``‖x_u − x_v‖₁``.
    taste
        ``shared_taste``, from 0 to 1.
    cosine, influence
        Of the two users' gradients: whether training uses the pair.
    shared
        Titles of common items, what contributes most to ``taste`` first.
    of_user, of_other
        Titles that only the one user has, what is most its own taste first.
    """

    user: int
    other: int
    input_distance: int
    taste: float
    cosine: float
    influence: float
    shared: tuple[str, ...]
    of_user: tuple[str, ...]
    of_other: tuple[str, ...]


@torch.no_grad()
def tastes(model: VAE, user_items: Interactions, users: np.ndarray) -> sp.csr_array:
    """Histories with items weighted by their users' taste, rows of length 1; float64 ``[N, I]``.

    Before scaling, the weight of user u's item i is ``π_i(μ_u) / mean_w π_i(μ_w)`` with
    ``π = softmax(f)`` and the mean over all ``users``; our definition.

    Parameters
    ----------
    model
        In evaluation mode.
    user_items
        Histories over the model's items.
    users
        Internal indices, int64 ``[N]``; each has a history.
    """
    histories = user_items.to_scipy()[users]
    codes = encode(model, user_items, users).mu
    device = model.decoder.table.device
    at_once = max(1, int(DECODED_BYTES // (8 * model.n_items)))
    chosen, total = [np.empty(0)], np.zeros(model.n_items)
    for start in range(0, len(users), at_once):
        block = slice(start, start + at_once)
        logits = model.decoder(codes[block].to(device)).double()
        likely = torch.softmax(logits, 1).cpu().numpy()
        total += likely.sum(0)
        rows = histories[block]
        chosen.append(likely[np.repeat(np.arange(len(likely)), np.diff(rows.indptr)), rows.indices])
    average = total[histories.indices] / max(1, len(users))
    weights = np.concatenate(chosen) / np.maximum(average, np.finfo(float).tiny)
    weighted = sp.csr_array((weights, histories.indices, histories.indptr), shape=histories.shape)
    length = np.sqrt(weighted.multiply(weighted).sum(1))
    length = np.repeat(np.maximum(length, np.finfo(float).tiny), np.diff(weighted.indptr))
    return sp.csr_array((weights / length, weighted.indices, weighted.indptr), shape=weighted.shape)


def shared_taste(of: sp.csr_array, pairs: np.ndarray) -> np.ndarray:
    """Cosine of the weighted histories of P pairs of rows of ``tastes``, float64 ``[P]``.

    From 0, without a shared item, to 1. It is a sum over the shared items.
    """
    taste: np.ndarray = of[pairs[:, 0]].multiply(of[pairs[:, 1]]).sum(1)
    return taste


def related_pairs(
    pairs: MeasuredPairs,
    places: np.ndarray,
    of: sp.csr_array,
    items: Sequence[str],
) -> tuple[RelatedPair, ...]:
    """Show some of the measured pairs by what their users share and by what sets them apart.

    Parameters
    ----------
    places
        Of the pairs to show, in this order.
    of
        ``tastes`` of ``np.unique(pairs.users)``.
    items
        A title per item, ``[I]``.
    """
    rows = np.searchsorted(np.unique(pairs.users), pairs.users[places])
    found = []
    for at, (one, other) in zip(places.tolist(), rows.tolist(), strict=True):
        mine, theirs = of[[one]], of[[other]]
        both = mine.multiply(theirs)
        found.append(
            RelatedPair(
                user=int(pairs.users[at, 0]),
                other=int(pairs.users[at, 1]),
                input_distance=int(pairs.input_distance[at]),
                taste=float(both.sum()),
                cosine=float(pairs.gradients.cosine[at]),
                influence=float(pairs.gradients.influence[at]),
                shared=_heaviest(both, items),
                of_user=_heaviest(mine - mine * (both > 0), items),
                of_other=_heaviest(theirs - theirs * (both > 0), items),
            )
        )
    return tuple(found)


def _heaviest(row: sp.csr_array, items: Sequence[str]) -> tuple[str, ...]:
    row = sp.csr_array(row)
    row.eliminate_zeros()
    order = np.argsort(-row.data, kind="stable")[:TITLES_SHOWN]
    return tuple(str(items[item]) for item in row.indices[order].tolist())


@dataclass(frozen=True, eq=False)
class PairScores:
    """What relates given ordered pairs (u, v), and what a step on v does; float64 ``[P]`` each.

    Parameters
    ----------
    taste
        ``shared_taste``.
    influence, cosine
        ``⟨g_u, g_v⟩`` and its cosine.
    change, own_change
        Nats: the change of u's loss by a step on v, and by a step on u itself.
    """

    taste: np.ndarray
    influence: np.ndarray
    cosine: np.ndarray
    change: np.ndarray
    own_change: np.ndarray


@torch.no_grad()
def pair_scores(
    model: VAE,
    user_items: Interactions,
    pairs: np.ndarray,
    *,
    learning_rate: float,
    generator: torch.Generator,
    n_draws: int = 8,
) -> PairScores:
    """Score given pairs of users, int64 ``[P, 2]`` of internal indices.

    Parameters
    ----------
    learning_rate
        η of the realised steps; a transfer measurement of the same model names a small one.
    generator
        On the CPU: draws the codes' noise, common to all users.
    n_draws
        S, codes per user.

    Raises
    ------
    DataError
        ``pairs`` has another shape, or names a user that is not there or has no history.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DataError(f"pairs must have the shape [P, 2], got {list(pairs.shape)}.")
    users, rows = np.unique(pairs, return_inverse=True)
    if len(users) and not 0 <= users[0] <= users[-1] < user_items.n_users:
        raise DataError(f"pairs must name users 0 … {user_items.n_users - 1}.")
    if not user_items.history_lengths[users].all():
        raise DataError("pairs names a user without any item; leave such users out.")
    rows = rows.reshape(-1, 2)
    codes = common_noise_codes(encode(model, user_items, users), n_draws, generator)
    histories = user_items.to_scipy()[users]
    found = np.empty((4, len(pairs)))
    most = max(1, int(SCORED_BYTES // (8 * codes.shape[1] * model.n_items)))  # two users a pair
    for block, some, inner in _blocks(rows, most):
        gradients = DecoderGradients(model, histories[some], codes[some])
        influence = gradients.influences(inner)
        sizes = gradients.squared_norms.sqrt().numpy()[inner].prod(1)
        found[:, block] = (
            influence,
            influence / np.where(sizes > 0, sizes, 1),
            gradients.changes(inner, learning_rate),
            gradients.changes(inner[:, [0, 0]], learning_rate),
        )
    return PairScores(shared_taste(tastes(model, user_items, users), rows), *found)


def _blocks(rows: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """At most ``most`` pairs at a time: places, rows named, and the pairs as places among those."""
    order = np.argsort(rows[:, 0], kind="stable")
    for start in range(0, len(rows), most):
        block = order[start : start + most]
        some, inner = np.unique(rows[block], return_inverse=True)
        yield block, some, inner.reshape(-1, 2)
