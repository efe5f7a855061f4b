"""The best items by a coarse pass over all and an exact one over few; none is missed.

An int8 copy of the output layer scores all items several times faster than float32 does. Its best
few are scored again in float32. By Cauchy and Schwarz's inequality no coarse score is further from
the exact one than ``‖h − ĥ‖ ‖w‖ + ‖ĥ‖ ‖w − ŵ‖``, where hats are what int8 kept of the hidden layer
h and of an item's weights w. The k-th exact score so far, less this error, is what a coarse score
must reach for the item to be wanted; where the few do not hold all such items, they are added.
"""

import numpy as np
from onnx import TensorProto

from coterie.data.ids import NO_ITEM
from coterie.serving.graph import Graph
from coterie.serving.output_layer import FUSED, OutputLayer, refuse_nan

LEVELS = 63  # of the hidden layer on either side of 0: with 127, pairs overflow 16 bits on AVX2
WEIGHT_LEVELS = 127
EXTRA = 64  # beyond twice the list: then more are rarely needed (measured on trained models)
LEAST_WORK = 38_400  # weights of the layer per candidate, from which on it pays (measured)

ROWS_AT_ONCE = 1 << 13
SCALINGS = 4  # steps, besides the sum, in which a coarse score is rounded
FLOAT32 = np.finfo(np.float32)


class Shortlist(OutputLayer):
    """The output layer of a VAE, twice: in float32, and as int8. All its numbers are finite."""

    def pays(self, k: int) -> bool:
        """Whether two passes are faster than one for lists of k items."""
        return pays(self.table, k)

    def coarse(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``[B, I]`` of what :meth:`best` is given, and their largest errors ``[B, 1]``."""
        nothing = np.empty((0, 2), dtype=np.int64)
        inputs = self._of_both_passes(self._inputs(given, None, 1, nothing), 1, None)
        found = self._session.run(["coarse", "error"], inputs)
        return found[0], found[1]

    def best(
        self,
        given: np.ndarray,
        k: np.ndarray,
        excluded: np.ndarray,
        *,
        scale: np.ndarray | None = None,
        closed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As by one pass, see :class:`~coterie.serving.output_layer.OutputLayer`."""
        longest = int(k.max())
        inputs = self._inputs(given, scale, longest, excluded)
        inputs = self._of_both_passes(inputs, longest, closed)
        names = ["items", "scores", "error", "reached"]
        items, scores, error, reached = self._session.run(names, inputs)
        refuse_nan(error)
        wanted = scores[np.arange(len(k)), k - 1] - error[:, 0]  # coarse scores from there on
        rows = np.flatnonzero((reached > -np.inf) & ~(wanted > reached))
        if len(rows):
            coarse, hidden = self._session.run(["coarse", "hidden"], inputs)
            for row in rows.tolist():
                (more,) = np.nonzero(coarse[row] >= wanted[row])
                exact = self.table[more] @ hidden[row] + self.bias[more]
                first = np.argsort(-exact, kind="stable")[:longest]  # equal ones: the lower item
                items[row, : len(first)], scores[row, : len(first)] = more[first], exact[first]
        items[scores == -np.inf] = NO_ITEM
        return items, scores

    def _of_both_passes(
        self, inputs: dict[str, np.ndarray], k: int, closed: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        offsets = self.bias[None]
        if closed is not None:
            offsets = np.where(closed, np.float32(-np.inf), offsets)
        n = np.array([min(candidates(k), len(self.bias))])
        return {**inputs, "offsets": offsets, "n": n}

    def _add_best(self, graph: Graph, hidden: str) -> None:
        """From the hidden layer ``[B, H]`` to its best items and the coarse scores' error."""
        add = graph.add
        kept, scales, lost, norm = _narrowed(self.table)
        rounding = (self.table.shape[1] + SCALINGS) * FLOAT32.eps
        whole = rounding * norm  # of float32, per norm of h, which is at most that of both parts
        largest = add("ReduceMax", add("Abs", hidden), axes=[1], keepdims=1)
        scale = add("Div", add("Max", largest, float(FLOAT32.tiny)), float(LEVELS))
        levels = add("Div", hidden, scale)
        rounded = add("Round", levels)
        small = add("Cast", add("Add", rounded, float(LEVELS)), to=TensorProto.UINT8)
        zero = np.array(LEVELS, dtype=np.uint8)
        one = np.ones(1, dtype=np.float32)
        sums = add("MatMulIntegerToFloat", small, kept.T, one, scales, zero, domain=FUSED)
        scores = add("Add", add("Mul", sums, scale), "offsets")
        add("ScatterND", scores, "excluded", "minus_inf", output="coarse")
        _add_exact(graph, hidden)
        parts = [
            add("Mul", add("ReduceL2", value, axes=[1], keepdims=1), per_norm)
            for value, per_norm in (
                (add("Sub", levels, rounded), norm + whole),
                (rounded, lost + whole),
            )
        ]
        error = add("Mul", add("Add", *parts), scale)
        add("Add", error, rounding * float(np.abs(self.bias).max()), output="error")
        add("Identity", hidden, output="hidden")


def candidates(k: int) -> int:
    """How many items are scored exactly for a list of k."""
    return 2 * k + EXTRA


def pays(table: np.ndarray, k: int) -> bool:
    """Whether two passes over a table are faster than one for lists of k items."""
    return table.size >= LEAST_WORK * candidates(k)


def _narrowed(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The table as int8 ``[I, H]``, what its rows are multiples of, and two of their norms.

    These are the largest ``‖w − ŵ‖`` and the largest ``‖w‖``.
    """
    kept = np.empty(table.shape, dtype=np.int8)
    scales = np.empty(len(table), dtype=np.float32)
    lost = norm = 0.0
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = table[rows]
        scale = np.maximum(np.abs(part).max(axis=1, keepdims=True), FLOAT32.tiny) / WEIGHT_LEVELS
        whole = np.rint(part / scale)
        kept[rows], scales[rows] = whole, scale[:, 0]
        norm = max(norm, float(np.linalg.norm(part, axis=1).max()))
        lost = max(lost, float(np.linalg.norm(whole * scale - part, axis=1).max()))
    return kept, scales, lost, norm


def _add_exact(graph: Graph, hidden: str) -> None:
    """The k best of the n items with the best coarse scores, equal ones by the lower item."""
    add = graph.add
    values, few = graph.top("coarse", "n", sorted=0)
    add("ReduceMin", values, axes=[1], keepdims=0, output="reached")
    few, _ = graph.top(few, "n", largest=0)  # ascending, as the best of equals is the first
    rows = add("Gather", "table", few)
    exact = add("MatMul", rows, add("Unsqueeze", hidden, np.array([2])))
    exact = add("Add", add("Squeeze", exact, np.array([2])), add("Gather", "bias", few))
    barred = add("Equal", add("GatherElements", "coarse", few, axis=1), -np.inf)
    best, places = graph.top(add("Where", barred, -np.inf, exact), "k")
    add("GatherElements", few, places, axis=1, output="items")
    add("Identity", best, output="scores")
