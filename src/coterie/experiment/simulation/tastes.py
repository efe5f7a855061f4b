"""What the invented people know, and how much they like every item."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut
from coterie.data.synthetic import SyntheticConfig, synthetic
from coterie.errors import DataError
from coterie.experiment.moments import Floats

CHECKED = 20  # users, whether the data was invented as it says
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tastes:
    """Some users' histories and likings.

    Parameters
    ----------
    known
        What is told to the recommender, a row per user.
    liking
        From a row and item indices ``[n]`` (−1: no item of the data) to their relevance, float64
        ``[n]`` in [0, 1].
    about
        In words, where the likings come from.
    """

    known: Interactions
    liking: Callable[[int, Index], Floats]
    about: str

    def __len__(self) -> int:
        return self.known.n_users

    def history(self, user: int) -> list[int | str]:
        """The ids of the items that a user knows."""
        return self.known.item_ids.to_ids(self.known.row(user)).to_list()

    def relevance(self, user: int, items: Sequence[int | str]) -> Floats:
        """Of items by id, float64 ``[n]`` in [0, 1]; 0 for an item that the data lacks."""
        if not items:
            return np.zeros(0)
        return self.liking(user, self.known.item_ids.to_index(list(items)))


def held_out_tastes(part: HeldOut) -> Tastes:
    """Users who like exactly what was held out of their histories; those without are left out.

    Raises
    ------
    DataError
        Nothing was held out.
    """
    some = np.flatnonzero(part.held_out.history_lengths > 0)
    if not len(some):
        raise DataError("The split holds nothing out of its test users, so nobody likes anything.")
    hidden = part.held_out.rows(some)

    def liking(user: int, items: Index) -> Floats:
        return np.isin(items, hidden.row(user)).astype(np.float64)

    return Tastes(part.fold_in.rows(some), liking, "the items held out of real histories")


def is_invented(known: Interactions) -> bool:
    """Whether the truth behind the data can be had again."""
    return "synthetic" in known.source and "seed" in known.source


def planted_tastes(known: Interactions) -> Tastes:
    """Users of invented data, who like an item as likely as they draw it, against their likeliest.

    Raises
    ------
    DataError
        The data is not what its source says, as after a change of it.
    """
    config = SyntheticConfig.read(known.source["synthetic"])
    invented = synthetic(config, known.source["seed"])
    original, truth = invented.interactions, invented.truth
    users = original.user_ids.to_index(known.user_ids.ids)
    places = original.item_ids.to_index(known.item_ids.ids)
    for row in range(min(CHECKED, known.n_users)):
        items = places[known.row(row)]
        if users[row] < 0 or not np.isin(items, original.row(users[row])).all():
            raise DataError(
                "The invented data has changed since, or was invented by another version of "
                "coterie, so that its truth is not known. Invent it anew: coterie demo."
            )

    def liking(user: int, items: Index) -> Floats:
        law = np.exp(truth.log_probabilities(users[[user]])[0])
        there = (items >= 0) & (places[items] >= 0)
        relevance: Floats = np.where(there, law[places[items]] / law.max(), 0.0)
        return relevance

    return Tastes(known, liking, "the planted truth of invented data")
