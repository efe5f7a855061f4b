"""A VAE's lists on a CPU: which pass over the items answers, and what it begins with."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp

from coterie.models.config import ModelConfig
from coterie.serving import shortlist
from coterie.serving.graph import Layers, Weights
from coterie.serving.output_layer import OutputLayer
from coterie.serving.shortlist import Shortlist

MOST_BYTES = (1 << 31) - (1 << 24)  # an ONNX model in memory has 2 GiB at most
TABLES = ("encoder.table", "decoder.table", "decoder.bias")  # no constants of the graph


def fits(weights: Weights, more: int = 0) -> bool:
    """Whether a VAE's layers between its tables, and ``more`` bytes, can be one graph."""
    between = (
        tensor.nbytes
        for name, tensor in weights.items()
        if name.startswith(("encoder.", "decoder.")) and name not in TABLES
    )
    return sum(between) + more <= MOST_BYTES


class VaeLists:
    """The encoder's table, and the rest in one pass or in two.

    Parameters
    ----------
    encoder_table
        float32 ``[I, D]``.
    whole
        One pass in float32.
    short
        Two passes, for lists for which they pay; None if for none.
    """

    def __init__(
        self, encoder_table: np.ndarray, whole: OutputLayer, short: Shortlist | None
    ) -> None:
        self._encoder_table, self._whole, self.short = encoder_table, whole, short

    @classmethod
    def of(cls, config: ModelConfig, weights: Weights, n_items: int, threads: int) -> Self:
        """Those of a model on a CPU whose graph :func:`fits`.

        Raises
        ------
        DataError
            A tensor is missing, or of another shape or type than the settings say.
        """
        layers = Layers(config, weights)
        encoder_table = layers.tensor("encoder.table", n_items, layers.width)
        table = layers.tensor("decoder.table", n_items, layers.last_width)
        bias = layers.tensor("decoder.bias", n_items)
        bounded = np.isfinite(table).all() and np.isfinite(bias).all()  # the error of int8
        short = None
        if bounded and shortlist.pays(table, 1) and fits(weights, table.size + 4 * len(bias)):
            short = Shortlist(table, bias, threads, layers=layers)
        return cls(encoder_table, OutputLayer(table, bias, threads, layers=layers), short)

    def layer(self, k: int) -> OutputLayer:
        """What finds lists of k items the fastest."""
        return self._whole if self.short is None or not self.short.pays(k) else self.short

    def sums(self, histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of the encoder table's rows over each history; and their scale, ``1 / √length``.

        Parameters
        ----------
        histories
            Distinct items of each user, int64, at least one.

        Returns
        -------
        sums, scale
            float32 ``[B, D]`` and ``[B]``.
        """
        lengths = np.array([len(history) for history in histories])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        items = np.concatenate(histories)
        ones = np.ones(len(items), dtype=np.float32)
        users = sp.csr_array((ones, items, indptr), shape=(len(lengths), len(self._encoder_table)))
        return users @ self._encoder_table, 1 / np.sqrt(lengths, dtype=np.float32)
