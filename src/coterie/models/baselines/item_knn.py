"""Item-based nearest neighbours: cosine with shrinkage."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from coterie.data.interactions import Interactions
from coterie.models.baselines.cooccurrence import Cooccurrence
from coterie.models.baselines.item_weights import SparseItemWeights
from coterie.models.model import BaselineConfig
from coterie.spaces import Range, SearchSpace


class ItemKnnConfig(BaselineConfig):
    """Neighbours of an item by the users that they share."""

    name: ClassVar[str] = "item-knn"
    search: ClassVar[SearchSpace] = {
        "neighbours": Range(5, 1000, log=True),
        "shrinkage": Range(0.1, 1000.0, log=True),
    }
    neighbours: PositiveInt = Field(100, description="Neighbours kept for each item.")
    shrinkage: NonNegativeFloat = Field(
        10.0, description="Added to the cosine's denominator, in users: doubts rare items."
    )


def fit(
    data: Interactions, config: ItemKnnConfig, progress: Callable[[int, int], None]
) -> SparseItemWeights:
    """Keep for each item j the cosines ``c_ij / (√(c_i c_j) + shrinkage)`` of its nearest items i.

    c counts the users of an item, or of two. The score of j is the sum of its cosines over the
    history. 64 MiB of cosines are held at a time beside what is kept, ``neighbours · I``.

    References
    ----------
    Sarwar et al., WWW 2001; the shrinkage as in Ferrari Dacrema et al., RecSys 2019, arXiv
    1907.06902.
    """
    shared = Cooccurrence(data)
    items, cosines = [], []
    for start, stop in shared.blocks():
        rows = shared.rows(start, stop)
        index, cosine = shared.nearest(rows, start, config.neighbours, config.shrinkage)
        items.append(index.numpy())
        cosines.append(cosine.numpy())
        progress(stop, data.n_items)
    return SparseItemWeights.of_columns(config, np.concatenate(items), np.concatenate(cosines))
