"""Models without gradient descent, to compare with: one file each; :data:`METHODS` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.data.interactions import Interactions
from coterie.models.baselines import ease, ials, item_knn, popularity, puresvd, sparse_ease
from coterie.models.baselines.item_weights import SparseItemWeights
from coterie.models.model import BaselineConfig, Model

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Method:
    """A baseline: its settings, what scores, and what fits it."""

    config: type[BaselineConfig]
    model: type[Model]
    fit: Callable[[Interactions, Any, Progress], Model]


METHODS = {
    method.config.name: method
    for method in (
        Method(popularity.PopularityConfig, popularity.Popularity, popularity.fit),
        Method(item_knn.ItemKnnConfig, SparseItemWeights, item_knn.fit),
        Method(ease.EaseConfig, ease.Ease, ease.fit),
        Method(sparse_ease.SparseEaseConfig, SparseItemWeights, sparse_ease.fit),
        Method(puresvd.PureSvdConfig, puresvd.PureSvd, puresvd.fit),
        Method(ials.IalsConfig, ials.Ials, ials.fit),
    )
}
"""By name."""
