"""Items like one, by cosine, without PyTorch."""

from functools import cached_property
from typing import Literal

import numpy as np

from coterie.serving.output_layer import refuse_nan


class SimilarItems:
    """As :func:`coterie.similarity.nearest`, for one item at a time.

    Parameters
    ----------
    table
        One vector per item, float32 ``[I, D]``.
    source
        What they are.
    """

    def __init__(self, table: np.ndarray, source: Literal["anchors", "decoder"]) -> None:
        self._table, self.source = table, source

    def of(self, item: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """At most k others and their cosines, the closest first.

        Equal ones go by the lower item, if rounding leaves them equal.

        Raises
        ------
        DivergenceError
            A vector holds NaN.
        """
        unit = self._table[item] * self._inverse[item]
        cosines = (self._table @ unit * self._inverse).clip(-1, 1)
        refuse_nan(cosines[None])
        cosines[item] = -np.inf
        k = min(k, len(cosines) - 1)
        if k < 1:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        (close,) = np.nonzero(cosines >= np.partition(cosines, -k)[-k])
        best = close[np.argsort(-cosines[close], kind="stable")[:k]]
        return best, cosines[best]

    @cached_property
    def _inverse(self) -> np.ndarray:
        """Of the vectors' norms, 0 for a vector of zeros; float32 ``[I]``."""
        norms = np.sqrt(np.einsum("ij,ij->i", self._table, self._table))
        inverse: np.ndarray = np.divide(1, norms, out=np.zeros_like(norms), where=norms != 0)
        return inverse
