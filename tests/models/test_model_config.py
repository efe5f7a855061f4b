from typing import Any

import pytest

from coterie.errors import ConfigError
from coterie.models.config import ModelConfig


def test_a_name_supplies_what_is_not_given() -> None:
    recvae = ModelConfig.read({"name": "recvae", "latent_dim": 50})
    assert (recvae.encoder, recvae.hidden_dims) == ("densely-connected", (600,) * 5)
    assert (recvae.latent_dim, recvae.decoder_widths) == (50, ())
    assert (recvae.prior.kind, recvae.prior.weights) == ("composite", (0.15, 0.75, 0.1))
    hvamp = ModelConfig.read({"name": "h-vamp-gated"})
    assert hvamp.hierarchical
    assert (hvamp.hidden_dims, hvamp.decoder_widths) == ((600, 600), (600, 600))
    assert hvamp.prior.n_pseudo_inputs == 1000
    assert ModelConfig.read({"name": "multi-dae"}).prior.kind == "none"
    assert ModelConfig.read({}) == ModelConfig(name="multi-vae")


def test_one_setting_of_the_prior_leaves_the_architectures_others() -> None:
    prior = ModelConfig.read({"name": "h-vamp-gated", "prior": {"n_pseudo_inputs": 500}}).prior
    assert (prior.kind, prior.n_pseudo_inputs) == ("hierarchical-vamp", 500)
    other = ModelConfig.read({"name": "recvae", "prior": {"kind": "vamp"}})
    assert (other.encoder, other.prior.kind) == ("densely-connected", "vamp")


@pytest.mark.parametrize("name", ["multi-vae", "multi-dae", "recvae", "h-vamp-gated"])
def test_what_was_written_is_read_again(name: str) -> None:
    config = ModelConfig.read({"name": name, "latent_dim": 12})
    assert ModelConfig.read(config.model_dump(mode="json")) == config


def test_decoder_widths_may_be_given() -> None:
    assert ModelConfig(hidden_dims=(9, 4)).decoder_widths == (4, 9)
    assert ModelConfig(hidden_dims=(9, 4), decoder_hidden_dims=(3,)).decoder_widths == (3,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prior": {"kind": "none"}}, "multi-dae, and no other model, has a point code"),
        ({"name": "recvae", "prior": {"kind": "none"}}, "no prior; got recvae"),
        ({"name": "multi-dae", "prior": {"kind": "vamp"}}, "got multi-dae with prior.kind='vamp'"),
        ({"encoder": "gated"}, "gated encoder is hierarchical and needs the prior"),
        ({"prior": {"kind": "hierarchical-vamp"}}, "which needs it; got encoder='mlp'"),
        ({"name": "h-vamp-gated", "prior": {"kind": "composite"}}, "gated encoder is hierarch"),
        ({"name": "h-vamp-gated", "latent_dim": 7}, "an even latent_dim"),
        ({"name": "h-vamp-gated", "hidden_dims": [600]}, "at least two hidden_dims"),
        ({"name": "recvae", "hidden_dims": []}, "one or more equal widths"),
        ({"name": "recvae", "hidden_dims": [600, 500]}, "equal widths; got \\(600, 500\\)"),
        ({"prior": {"weights": [0.2, 0.2, 0.2]}}, "must sum to 1, got"),
        ({"prior": {"weights": [1.0, 0.5, -0.5]}}, "ModelConfig.prior.weights"),
        ({"prior": {"weights": [0.5, 0.5]}}, "ModelConfig.prior.weights"),
        ({"prior": {"n_pseudo_inputs": 0}}, "n_pseudo_inputs: Input should be greater than 0"),
        ({"prior": {"n_pseudo_inputs": 500}}, "n_pseudo_inputs=500 does nothing: only kind='vamp'"),
        ({"name": "recvae", "prior": {"n_pseudo_inputs": 500}}, "n_pseudo_inputs=500 does nothing"),
        ({"prior": {"wide_logvar": 3.0}}, "wide_logvar=3.0 does nothing: only kind='composite'"),
        (
            {"prior": {"kind": "vamp", "weights": (0.2, 0.3, 0.5)}},
            "weights=.* does nothing: only kind=.composite",
        ),
        ({"prior": {"kind": "gaussian"}}, "got 'gaussian'"),
        ({"prior": {"kidn": "vamp"}}, "did you mean 'kind'"),
        ({"encodr": "mlp"}, "did you mean 'encoder'"),
        ({"name": "recvae+pia"}, "ModelConfig.name"),
        ({"prior": 3}, "ModelConfig.prior"),
    ],
)
def test_nonsense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.read(values)
