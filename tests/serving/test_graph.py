"""The layers between the tables, as ONNX Runtime computes them, are PyTorch's."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from coterie.models.config import ModelConfig
from coterie.models.vae import VAE
from coterie.serving.graph import Graph, Layers

SHAPES = {
    "multi-vae": [
        {"hidden_dims": (), "latent_dim": 8},
        {"hidden_dims": (16,), "latent_dim": 8},
        {"hidden_dims": (16, 12), "latent_dim": 8},
    ],
    "multi-dae": [
        {"hidden_dims": (), "latent_dim": 8},
        {"hidden_dims": (16, 12), "latent_dim": 8},
    ],
    "recvae": [
        {"hidden_dims": (16,), "latent_dim": 8},
        {"hidden_dims": (16, 16, 16), "latent_dim": 8},
    ],
    "h-vamp-gated": [
        {"hidden_dims": (16, 12), "latent_dim": 8},
        {"hidden_dims": (16, 12, 10), "latent_dim": 6},
    ],
}


def session_of(vae):
    graph = Graph()
    weights = {name: tensor.numpy() for name, tensor in vae.state_dict().items()}
    hidden = Layers(vae.config, weights).add(graph, "sums")
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", None])
        for name in ("sums", hidden)
    ]
    made = helper.make_graph(graph.nodes, "layers", floats[:1], floats[1:], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
)
def test_the_hidden_layer_is_pytorchs(name, shape):
    vae = VAE(ModelConfig(name=name, **shape), 50).initialized(3)
    generator = torch.Generator().manual_seed(4)
    for part in vae.modules():  # fresh layer norms are the identity, which proves little
        if isinstance(part, torch.nn.LayerNorm):
            with torch.no_grad():
                part.weight.normal_(generator=generator)
                part.bias.normal_(generator=generator)
    sums = 3 * torch.randn(20, len(vae.encoder.bias), generator=generator)
    with torch.no_grad():
        expected = vae.decoder.hidden(vae.encoder.posterior(sums).mu)
    (found,) = session_of(vae).run(None, {"sums": sums.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=2e-6)
