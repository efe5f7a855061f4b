"""A VAE's layers between its two item tables, as nodes of an ONNX graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from coterie.models.config import RECVAE_EPS, ModelConfig

Operand = str | int | float | np.ndarray
Weights = Mapping[str, np.ndarray]
"""A model's tensors, by their names in its ``state_dict``."""


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

    def columns(self, value: str, start: int, stop: int) -> str:
        """``[B, stop − start]``."""
        return self.add("Slice", value, *(np.array([one]) for one in (start, stop, 1)))

    def _constant(self, value: Operand) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


class Layers:
    """What lies between the sums of the encoder's first layer and the decoder's output layer.

    Parameters
    ----------
    config
        The architecture.
    weights
        The model's.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config, self._weights = config, weights

    def add(self, graph: Graph, sums: str) -> str:
        """The decoder's last hidden layer ``[B, H]``, from what ``encoder.sums`` gives."""
        value = self._mean(graph, sums)
        for place in range(len(self._config.decoder_widths)):
            layer = f"decoder.layers.{place}"
            if self._config.hierarchical:
                value = self._gated(graph, layer, value)
            else:
                value = graph.add("Tanh", self._linear(graph, layer, value))
        return value

    def _mean(self, graph: Graph, sums: str) -> str:
        config = self._config
        value = graph.add("Add", sums, self._weights["encoder.bias"])
        if config.encoder == "gated":
            return self._hierarchical_mean(graph, value)
        if config.encoder == "densely-connected":
            head = self._densely_connected(graph, value)
        else:
            head = value
            for place in range(len(config.hidden_dims)):
                hidden = graph.add("Tanh", head)
                head = self._linear(graph, f"encoder.layers.{place}", hidden)
        if config.variational:
            return graph.columns(head, 0, config.latent_dim)
        return graph.add("Tanh", head)

    def _densely_connected(self, graph: Graph, value: str) -> str:
        hidden = before = self._norm(graph, "encoder.norms.0", _silu(graph, value))
        for place in range(len(self._config.hidden_dims) - 1):
            layer = self._linear(graph, f"encoder.layers.{place}", hidden)
            value = _silu(graph, graph.add("Add", layer, before))
            hidden = self._norm(graph, f"encoder.norms.{place + 1}", value)
            before = graph.add("Add", before, hidden)
        return self._linear(graph, "encoder.head", hidden)

    def _hierarchical_mean(self, graph: Graph, value: str) -> str:
        n_layers, width = len(self._config.hidden_dims) - 1, len(self._weights["encoder.bias"])
        half, upper = self._config.latent_dim // 2, width // 2
        hidden = _glu(graph, value, 0, upper)
        for place in range(n_layers):
            hidden = self._gated(graph, f"encoder.layers.{place}", hidden)
        z2 = graph.columns(self._linear(graph, "encoder.head.linear", hidden), 0, half)
        parts = _glu(graph, value, upper, width), self._gated(graph, "encoder.code_layer", z2)
        hidden = graph.add("Concat", *parts, axis=1)
        for place in range(n_layers):
            hidden = self._gated(graph, f"encoder.joint_layers.{place}", hidden)
        z1 = graph.columns(self._linear(graph, "encoder.joint_head.linear", hidden), 0, half)
        return graph.add("Concat", z1, z2, axis=1)

    def _linear(self, graph: Graph, layer: str, value: str) -> str:
        weight, bias = self._both(layer)
        return graph.add("Gemm", value, weight, bias, transB=1)

    def _gated(self, graph: Graph, layer: str, value: str) -> str:
        gate = graph.add("Sigmoid", self._linear(graph, f"{layer}.gate", value))
        return graph.add("Mul", self._linear(graph, f"{layer}.value", value), gate)

    def _norm(self, graph: Graph, layer: str, value: str) -> str:
        scale, bias = self._both(layer)
        return graph.add("LayerNormalization", value, scale, bias, axis=-1, epsilon=RECVAE_EPS)

    def _both(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        return self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]


def _silu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", value))


def _glu(graph: Graph, value: str, start: int, stop: int) -> str:
    middle = (start + stop) // 2
    gate = graph.add("Sigmoid", graph.columns(value, middle, stop))
    return graph.add("Mul", graph.columns(value, start, middle), gate)
