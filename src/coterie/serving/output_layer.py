"""The best items by a VAE's output layer, as one graph of ONNX Runtime.

A single call, for which no other thread of the interpreter waits; PyTorch's calls, one per step,
wait for the interpreter each, and PyTorch takes seconds to import.
"""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from coterie.data.ids import NO_ITEM
from coterie.errors import DivergenceError
from coterie.serving.graph import Graph, Layers

FUSED = "com.microsoft"  # the domain of ONNX Runtime's own operators
OPSET = 17


class OutputLayer:
    """The output layer of a VAE, and what lies before it; scores all items in float32.

    Parameters
    ----------
    table, bias
        The output layer, float32 ``[I, H]`` and ``[I]``; used as they are.
    threads
        Of ONNX Runtime.
    layers
        Those from the sums of the encoder's first layer on; None begins at the hidden layer before
        the output.
    """

    def __init__(
        self, table: np.ndarray, bias: np.ndarray, threads: int, *, layers: Layers | None = None
    ) -> None:
        self.table, self.bias = table, bias
        graph = Graph()
        scaled = graph.add("Mul", "given", "scale")
        hidden = scaled if layers is None else layers.add(graph, scaled)
        self._add_best(graph, hidden)
        self._session = _session(graph, threads)
        self._one = np.ones((1, 1), dtype=np.float32)

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
        inputs = {
            **self._inputs(given, scale, int(k.max()), excluded),
            "closed": np.zeros((1, 1), dtype=bool) if closed is None else closed,
        }
        items, scores, error = self._session.run(["items", "scores", "error"], inputs)
        refuse_nan(error)
        items[scores == -np.inf] = NO_ITEM
        return items, scores

    def _add_best(self, graph: Graph, hidden: str) -> None:
        """From the hidden layer ``[B, H]`` to the best items, and NaN where a score is NaN."""
        add = graph.add
        scores = add("Gemm", hidden, "table", "bias", transB=1)
        scores = add("Where", "closed", -np.inf, scores)
        scores = add("ScatterND", scores, "excluded", "minus_inf")
        best, places = graph.top(scores, "k")
        add("Identity", places, output="items")
        add("Identity", best, output="scores")
        bad = add("Cast", add("IsNaN", scores), to=TensorProto.UINT8)
        bad = add("Cast", add("ReduceMax", bad, axes=[1], keepdims=1), to=TensorProto.BOOL)
        add("Where", bad, np.nan, 0.0, output="error")

    def _inputs(
        self, given: np.ndarray, scale: np.ndarray | None, k: int, excluded: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Of the graph, but for what must not be in the lists by ``closed``."""
        return {
            "given": given,
            "scale": self._one if scale is None else scale[:, None],
            "table": self.table,
            "bias": self.bias,
            "excluded": excluded,
            "minus_inf": np.full(len(excluded), -np.inf, dtype=np.float32),
            "k": np.array([k]),
        }


def refuse_nan(values: np.ndarray) -> None:
    """Raise :class:`DivergenceError` if one of ``values`` ``[B, n]`` is NaN."""
    bad = np.isnan(values).any(axis=1)
    if bad.any():
        raise DivergenceError.of_scores(int(bad.sum()), len(values))


def _session(graph: Graph, threads: int) -> ort.InferenceSession:
    floats, whole, known = TensorProto.FLOAT, TensorProto.INT64, helper.make_tensor_value_info
    inputs = [
        known("given", floats, ["B", "D"]),
        known("scale", floats, ["S", 1]),  # S = 1 or B
        known("table", floats, ["I", "H"]),  # not constants, which would be copies
        known("bias", floats, ["I"]),
        known("closed", TensorProto.BOOL, ["R", "C"]),  # R and C are 1 where nothing is
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
    read = {name for node in graph.nodes for name in node.input}
    written = {name for node in graph.nodes for name in node.output}
    made = helper.make_graph(
        graph.nodes,
        "best",
        [one for one in inputs if one.name in read],
        [one for one in outputs if one.name in written],
        graph.constants,
    )
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
    model = helper.make_model(made, opset_imports=sets, ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
