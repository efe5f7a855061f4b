"""A VAE's layers between its two item tables, as nodes of an ONNX graph."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from coterie.errors import DataError
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
    """A VAE between the sums of the encoder's first layer and the decoder's output layer.

    Parameters
    ----------
    config
        The architecture.
    weights
        The model's.
    """

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self._config, self._weights = config, weights

    @property
    def width(self) -> int:
        """D, the columns of the encoder's table."""
        if self._config.hierarchical:
            return 4 * self._config.hidden_dims[0]
        return (*self._config.hidden_dims, self._head)[0]

    @property
    def last_width(self) -> int:
        """H, the columns of the decoder's table."""
        return (self._config.latent_dim, *self._config.decoder_widths)[-1]

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A float32 tensor of the model.

        Raises
        ------
        DataError
            It is missing, or of another shape or type.
        """
        found = self._weights.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            what = "none" if found is None else f"{found.dtype} {list(found.shape)}"
            raise DataError(
                f"the tensor {name!r} should be float32 {list(shape)} by the model's "
                f"configuration, got {what}."
            )
        return found

    def add(self, graph: Graph, sums: str) -> str:
        """The decoder's last hidden layer ``[B, H]``, from what ``encoder.sums`` gives."""
        widths = self._config.latent_dim, *self._config.decoder_widths
        value = self._mean(graph, graph.add("Add", sums, self.tensor("encoder.bias", self.width)))
        if self._config.hierarchical:
            return self._all_gated(graph, "decoder.layers", value, *widths)
        for place, (n_in, n_out) in enumerate(pairwise(widths)):
            layer = self._linear(graph, f"decoder.layers.{place}", value, n_in, n_out)
            value = graph.add("Tanh", layer)
        return value

    @property
    def _head(self) -> int:
        """How many numbers the encoder gives: two for each of z, or one."""
        return self._config.latent_dim * (2 if self._config.variational else 1)

    def _mean(self, graph: Graph, value: str) -> str:
        config = self._config
        if config.encoder == "gated":
            return self._hierarchical_mean(graph, value)
        if config.encoder == "densely-connected":
            value = self._densely_connected(graph, value)
        else:
            for place, (n_in, n_out) in enumerate(pairwise((*config.hidden_dims, self._head))):
                hidden = graph.add("Tanh", value)
                value = self._linear(graph, f"encoder.layers.{place}", hidden, n_in, n_out)
        if config.variational:
            return graph.columns(value, 0, config.latent_dim)
        return graph.add("Tanh", value)

    def _densely_connected(self, graph: Graph, value: str) -> str:
        width = self.width
        hidden = before = self._norm(graph, "encoder.norms.0", _silu(graph, value))
        for place in range(len(self._config.hidden_dims) - 1):
            layer = self._linear(graph, f"encoder.layers.{place}", hidden, width, width)
            value = _silu(graph, graph.add("Add", layer, before))
            hidden = self._norm(graph, f"encoder.norms.{place + 1}", value)
            before = graph.add("Add", before, hidden)
        return self._linear(graph, "encoder.head", hidden, width, self._head)

    def _hierarchical_mean(self, graph: Graph, value: str) -> str:
        first, *rest = self._config.hidden_dims
        half, last = self._config.latent_dim // 2, self._config.hidden_dims[-1]
        hidden = _glu(graph, value, 0, 2 * first)
        hidden = self._all_gated(graph, "encoder.layers", hidden, first, *rest)
        head = self._linear(graph, "encoder.head.linear", hidden, last, 2 * half)
        z2 = graph.columns(head, 0, half)
        parts = (
            _glu(graph, value, 2 * first, 4 * first),
            self._gated(graph, "encoder.code_layer", z2, half, first),
        )
        hidden = graph.add("Concat", *parts, axis=1)
        hidden = self._all_gated(graph, "encoder.joint_layers", hidden, 2 * first, *rest)
        head = self._linear(graph, "encoder.joint_head.linear", hidden, last, 2 * half)
        return graph.add("Concat", graph.columns(head, 0, half), z2, axis=1)

    def _linear(self, graph: Graph, layer: str, value: str, n_in: int, n_out: int) -> str:
        weight = self.tensor(f"{layer}.weight", n_out, n_in)
        return graph.add("Gemm", value, weight, self.tensor(f"{layer}.bias", n_out), transB=1)

    def _gated(self, graph: Graph, layer: str, value: str, n_in: int, n_out: int) -> str:
        gate = graph.add("Sigmoid", self._linear(graph, f"{layer}.gate", value, n_in, n_out))
        return graph.add("Mul", self._linear(graph, f"{layer}.value", value, n_in, n_out), gate)

    def _all_gated(self, graph: Graph, layers: str, value: str, *widths: int) -> str:
        for place, (n_in, n_out) in enumerate(pairwise(widths)):
            value = self._gated(graph, f"{layers}.{place}", value, n_in, n_out)
        return value

    def _norm(self, graph: Graph, layer: str, value: str) -> str:
        both = (self.tensor(f"{layer}.{name}", self.width) for name in ("weight", "bias"))
        return graph.add("LayerNormalization", value, *both, axis=-1, epsilon=RECVAE_EPS)


def _silu(graph: Graph, value: str) -> str:
    return graph.add("Mul", value, graph.add("Sigmoid", value))


def _glu(graph: Graph, value: str, start: int, stop: int) -> str:
    middle = (start + stop) // 2
    gate = graph.add("Sigmoid", graph.columns(value, middle, stop))
    return graph.add("Mul", graph.columns(value, start, middle), gate)
