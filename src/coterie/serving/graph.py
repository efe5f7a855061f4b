"""A VAE's layers between its two item tables, as nodes of an ONNX graph."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from coterie.models.decoders import MlpDecoder
from coterie.models.encoders import DenselyConnectedEncoder, MlpEncoder
from coterie.models.hierarchical import HierarchicalEncoder
from coterie.models.layers import GatedLinear
from coterie.models.vae import VAE

Operand = str | int | float | np.ndarray | Tensor


class Graph:
    """Nodes and constants as they are added.

    A number among the inputs becomes a constant: int64 if whole, else float32.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(
        self, operator: str, *inputs: Operand, output: str | None = None, **attributes: Any
    ) -> str:
        """The name of the output of one more node, ``output`` if given."""
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def top(self, value: str, k: str, **attributes: Any) -> tuple[str, str]:
        """The names of the k largest values of each row, and of their places."""
        outputs = [f"TopK_{len(self.nodes)}_{name}" for name in ("values", "places")]
        self.nodes.append(helper.make_node("TopK", [value, k], outputs, **attributes))
        return outputs[0], outputs[1]

    def linear(self, layer: nn.Module, value: str) -> str:
        """``[B, n_in]`` to ``[B, n_out]``."""
        assert isinstance(layer, nn.Linear)
        return self.add("Gemm", value, layer.weight, layer.bias, transB=1)

    def gated(self, layer: nn.Module, value: str) -> str:
        """As the layer."""
        assert isinstance(layer, GatedLinear)
        gate = self.add("Sigmoid", self.linear(layer.gate, value))
        return self.add("Mul", self.linear(layer.value, value), gate)

    def columns(self, value: str, start: int, stop: int) -> str:
        """``[B, stop − start]``."""
        return self.add("Slice", value, *(np.array([one]) for one in (start, stop, 1)))

    def _constant(self, value: Operand) -> str:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def add_hidden(graph: Graph, vae: VAE, sums: str) -> str:
    """The decoder's last hidden layer ``[B, H]``, from what ``vae.encoder.sums`` gives."""
    return _decoded(graph, vae.decoder, _mean(graph, vae, sums))


def _mean(graph: Graph, vae: VAE, sums: str) -> str:
    encoder, latent_dim = vae.encoder, vae.config.latent_dim
    if isinstance(encoder, HierarchicalEncoder):
        return _hierarchical_mean(graph, encoder, sums)
    hidden = graph.add("Add", sums, encoder.bias)
    if isinstance(encoder, DenselyConnectedEncoder):
        head = _densely_connected(graph, encoder, hidden)
    else:
        assert isinstance(encoder, MlpEncoder)
        head = hidden
        for layer in encoder.layers:
            head = graph.linear(layer, graph.add("Tanh", head))
    return graph.columns(head, 0, latent_dim) if encoder.variational else graph.add("Tanh", head)


def _densely_connected(graph: Graph, encoder: DenselyConnectedEncoder, value: str) -> str:
    first, *rest = encoder.norms
    hidden = before = _norm(graph, first, _silu(graph, value))
    for layer, norm in zip(encoder.layers, rest, strict=True):
        value = graph.add("Add", graph.linear(layer, hidden), before)
        hidden = _norm(graph, norm, _silu(graph, value))
        before = graph.add("Add", before, hidden)
    return graph.linear(encoder.head, hidden)


def _hierarchical_mean(graph: Graph, encoder: HierarchicalEncoder, sums: str) -> str:
    value = graph.add("Add", sums, encoder.bias)
    upper, width = encoder.upper_width, len(encoder.bias)
    hidden = _glu(graph, value, 0, upper)
    for layer in encoder.layers:
        hidden = graph.gated(layer, hidden)
    half = encoder.head.linear.out_features // 2
    z2 = graph.columns(graph.linear(encoder.head.linear, hidden), 0, half)
    parts = _glu(graph, value, upper, width), graph.gated(encoder.code_layer, z2)
    hidden = graph.add("Concat", *parts, axis=1)
    for layer in encoder.joint_layers:
        hidden = graph.gated(layer, hidden)
    z1 = graph.columns(graph.linear(encoder.joint_head.linear, hidden), 0, half)
    return graph.add("Concat", z1, z2, axis=1)


def _decoded(graph: Graph, decoder: MlpDecoder, value: str) -> str:
    for layer in decoder.layers:
        if isinstance(layer, GatedLinear):
            value = graph.gated(layer, value)
        else:
            value = graph.add("Tanh", graph.linear(layer, value))
    return value


def _silu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", value))


def _glu(graph: Graph, value: str, start: int, stop: int) -> str:
    middle = (start + stop) // 2
    gate = graph.add("Sigmoid", graph.columns(value, middle, stop))
    return graph.add("Mul", graph.columns(value, start, middle), gate)


def _norm(graph: Graph, norm: nn.Module, value: str) -> str:
    assert isinstance(norm, nn.LayerNorm)
    return graph.add("LayerNormalization", value, norm.weight, norm.bias, axis=-1, epsilon=norm.eps)
