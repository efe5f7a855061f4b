"""The best items by a coarse pass over all and an exact one over few; none is missed.

An int8 copy of the output layer scores all items several times faster than float32 does. Its best
few are scored again in float32. By Cauchy and Schwarz's inequality no coarse score is further from
the exact one than ``‖h − ĥ‖ ‖w‖ + ‖ĥ‖ ‖w − ŵ‖``, where hats are what int8 kept of the hidden layer
h and of an item's weights w. The k-th exact score so far, less this error, is what a coarse score
must reach for the item to be wanted; where the few do not hold all such items, they are added.

All this is one graph of ONNX Runtime: a single call, for which no other thread of the interpreter
waits. PyTorch's calls, one per step, wait for the interpreter each.
"""

from typing import Self

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor

from coterie.models.model import Model
from coterie.models.vae import VAE
from coterie.ranking import NO_ITEM, refuse_nan, top_k
from coterie.serving.graph import Graph, add_hidden

LEVELS = 63  # of the hidden layer on either side of 0: with 127, pairs overflow 16 bits on AVX2
WEIGHT_LEVELS = 127
EXTRA = 64  # beyond twice the list: then more are rarely needed (measured on trained models)
LEAST_WORK = 38_400  # weights of the layer per candidate, from which on it pays (measured)

MOST_BYTES = (1 << 31) - (1 << 24)  # an ONNX model in memory has 2 GiB at most
ROWS_AT_ONCE = 1 << 14
SCALINGS = 4  # steps, besides the sum, in which a coarse score is rounded
FUSED = "com.microsoft"  # the domain of ONNX Runtime's own operators


class Shortlist:
    """The output layer of a VAE, twice: in float32, and as int8 for ONNX Runtime.

    Parameters
    ----------
    table, bias
        The output layer, float32 ``[I, H]`` and ``[I]``, on a CPU; used as they are.
    threads
        Of ONNX Runtime.
    vae
        Whose layer it is: then the graph begins at the sums of the encoder's first layer. None
        begins at the hidden layer before the output.
    """

    def __init__(
        self, table: Tensor, bias: Tensor, threads: int, *, vae: VAE | None = None
    ) -> None:
        self.table, self.bias = table.detach(), bias.detach()
        kept, scales, lost = _narrowed(self.table)
        graph = Graph()
        scaled = graph.add("Mul", "given", "scale")
        hidden = scaled if vae is None else add_hidden(graph, vae, scaled)
        norm = float(self.table.norm(dim=1).max())
        rounding = (self.table.shape[1] + SCALINGS) * torch.finfo(torch.float32).eps
        whole = rounding * norm  # of float32, per norm of h, which is at most that of both parts
        errors = norm + whole, lost + whole, rounding * float(self.bias.abs().max())
        _add_scores(graph, hidden, kept, scales, errors)
        self._session = _session(graph, threads)
        self._table, self._bias = self.table.numpy(), self.bias.numpy()
        self._one = np.ones((1, 1), dtype=np.float32)

    @classmethod
    def of(cls, model: Model, threads: int | None = None) -> Self | None:
        """The shortlist of a model; None if it has no finite output layer on a CPU of a fit size.

        ``threads`` are PyTorch's if None.
        """
        if not isinstance(model, VAE) or model.device.type != "cpu":
            return None
        table, bias = model.decoder.table, model.decoder.bias
        weights = sum(one.numel() for one in model.parameters()) - model.encoder.table.numel()
        size = table.numel() + 4 * (weights - table.numel() + len(bias))  # of the graph's constants
        if size > MOST_BYTES or not _pays(table, 1):
            return None
        if not (table.isfinite().all() and bias.isfinite().all()):  # no bound on any error
            return None
        return cls(table, bias, threads or torch.get_num_threads(), vae=model)

    def pays(self, k: int) -> bool:
        """Whether two passes are faster than one for lists of k items."""
        return _pays(self.table, k)

    def coarse(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``[B, I]`` of what :meth:`best` is given, and their largest errors ``[B, 1]``."""
        nothing = np.empty((0, 2), dtype=np.int64)
        found = self._session.run(["coarse", "error"], self._inputs(given, None, 1, nothing, None))
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
        """The items with the best exact scores, and these.

        Parameters
        ----------
        given
            Sums of rows of the encoder's table, or hidden layers, float32 ``[B, D]``.
        k
            Lengths of the lists, int64 ``[B]``, each 1 to I.
        excluded
            Rows and items that must not be in the rows' lists, int64 ``[n, 2]``.
        scale
            What multiplies ``given``, float32 ``[B]``; None for 1.
        closed
            More that must not be in the lists, bool ``[B, I]``; None for no more.

        Returns
        -------
        items, scores
            int64 and float32, ``[B, K]`` with K the greatest of the lengths, as
            :class:`~coterie.ranking.TopK`; the first k of each row are the best, whatever follows.

        Raises
        ------
        DivergenceError
            A score is NaN.
        """
        longest = int(k.max())
        inputs = self._inputs(given, scale, longest, excluded, closed)
        names = ["items", "scores", "error", "reached"]
        items, scores, error, reached = self._session.run(names, inputs)
        if np.isnan(error).any():  # where a score is
            refuse_nan(torch.from_numpy(error))
        wanted = scores[np.arange(len(k)), k - 1] - error[:, 0]  # coarse scores from there on
        rows = np.flatnonzero((reached > -np.inf) & ~(wanted > reached))
        if len(rows):
            coarse, hidden = self._session.run(["coarse", "hidden"], inputs)
            for row in rows.tolist():
                (more,) = np.nonzero(coarse[row] >= wanted[row])
                one, places = torch.from_numpy(hidden[row : row + 1]), torch.from_numpy(more)
                best = top_k(F.linear(one, self.table[places], self.bias[places]), longest)
                items[row], scores[row] = more[best.indices[0].numpy()], best.scores[0].numpy()
        items[scores == -np.inf] = NO_ITEM
        return items, scores

    def _inputs(
        self,
        given: np.ndarray,
        scale: np.ndarray | None,
        k: int,
        excluded: np.ndarray,
        closed: np.ndarray | None,
    ) -> dict[str, np.ndarray]:
        offsets = self._bias[None]
        if closed is not None:
            offsets = np.where(closed, np.float32(-np.inf), offsets)
        return {
            "given": given,
            "scale": self._one if scale is None else scale[:, None],
            "table": self._table,
            "bias": self._bias,
            "offsets": offsets,
            "excluded": excluded,
            "minus_inf": np.full(len(excluded), -np.inf, dtype=np.float32),
            "n": np.array([min(candidates(k), len(self._bias))]),
            "k": np.array([k]),
        }


def candidates(k: int) -> int:
    """How many items are scored exactly for a list of k."""
    return 2 * k + EXTRA


def _pays(table: Tensor, k: int) -> bool:
    return table.numel() >= LEAST_WORK * candidates(k)


def _narrowed(table: Tensor) -> tuple[Tensor, Tensor, float]:
    """The table as int8 ``[I, H]``, what its rows are multiples of, and the largest ``‖w − ŵ‖``."""
    kept, scales, lost = torch.empty_like(table, dtype=torch.int8), torch.empty(len(table)), 0.0
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = table[rows]
        scale = part.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale /= WEIGHT_LEVELS
        whole = (part / scale).round_()
        kept[rows], scales[rows] = whole.to(torch.int8), scale[:, 0]
        lost = max(lost, float((whole * scale).sub_(part).norm(dim=1).max()))
    return kept, scales, lost


def _add_scores(
    graph: Graph, hidden: str, kept: Tensor, scales: Tensor, errors: tuple[float, ...]
) -> None:
    """From the hidden layer ``[B, H]`` to its best items and their largest error.

    ``errors`` are what the norm of ``h − ĥ``, that of ``ĥ``, and 1 count for.
    """
    add = graph.add
    largest = add("ReduceMax", add("Abs", hidden), axes=[1], keepdims=1)
    scale = add("Div", add("Max", largest, torch.finfo(torch.float32).tiny), float(LEVELS))
    levels = add("Div", hidden, scale)
    whole = add("Round", levels)
    small = add("Cast", add("Add", whole, float(LEVELS)), to=TensorProto.UINT8)
    zero = np.array(LEVELS, dtype=np.uint8)
    one = np.ones(1, dtype=np.float32)
    sums = add("MatMulIntegerToFloat", small, kept.T, one, scales, zero, domain=FUSED)
    scores = add("Add", add("Mul", sums, scale), "offsets")
    add("ScatterND", scores, "excluded", "minus_inf", output="coarse")
    _add_best(graph, hidden)
    parts = [
        add("Mul", add("ReduceL2", value, axes=[1], keepdims=1), error)
        for value, error in zip((add("Sub", levels, whole), whole), errors[:2], strict=True)
    ]
    add("Add", add("Mul", add("Add", *parts), scale), errors[2], output="error")
    add("Identity", hidden, output="hidden")


def _add_best(graph: Graph, hidden: str) -> None:
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


def _session(graph: Graph, threads: int) -> ort.InferenceSession:
    floats, whole, known = TensorProto.FLOAT, TensorProto.INT64, helper.make_tensor_value_info
    inputs = [
        known("given", floats, ["B", "D"]),
        known("scale", floats, ["S", 1]),  # S = 1 or B
        known("table", floats, ["I", "H"]),  # not constants, which would be copies
        known("bias", floats, ["I"]),
        known("offsets", floats, ["R", "I"]),  # bias; R = 1, or B where rows differ in what counts
        known("excluded", whole, ["E", 2]),
        known("minus_inf", floats, ["E"]),
        known("n", whole, [1]),
        known("k", whole, [1]),
    ]
    outputs = [
        known("hidden", floats, ["B", "H"]),
        known("coarse", floats, ["B", "I"]),
        known("items", whole, ["B", "K"]),
        known("scores", floats, ["B", "K"]),
        known("error", floats, ["B", 1]),
        known("reached", floats, ["B"]),
    ]
    made = helper.make_graph(graph.nodes, "shortlist", inputs, outputs, graph.constants)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
    model = helper.make_model(made, opset_imports=sets, ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
