import pytest
import torch

from coterie.models.vae import VAE, ModelConfig
from histories import batch_of, random_histories

N_ITEMS = 23


@pytest.mark.parametrize(
    ("name", "hidden_dims"),
    [
        ("multi-vae", ()),
        ("multi-vae", (9,)),
        ("multi-vae", (9, 6)),
        ("multi-dae", ()),
        ("multi-dae", (9, 6)),
        ("recvae", (9, 9, 9)),
        ("h-vamp-gated", (9, 6)),
    ],
)
def test_latent_dim_is_exactly_the_size_of_z(name: str, hidden_dims: tuple[int, ...]) -> None:
    config = ModelConfig.read({"name": name, "hidden_dims": hidden_dims, "latent_dim": 6})
    model = VAE(config, N_ITEMS).initialized(0)
    batch = batch_of(random_histories(4, N_ITEMS, seed=0), N_ITEMS)
    posterior = model.encode(batch)
    assert posterior.mu.shape == posterior.sample(torch.Generator()).shape == (4, 6)
    assert (posterior.logvar is None) == (name == "multi-dae")
    logits = model(batch)
    assert logits.shape == (4, N_ITEMS)
    torch.testing.assert_close(logits, model.decoder(posterior.mu))


def test_the_decoder_mirrors_the_encoder() -> None:
    model = VAE(ModelConfig(hidden_dims=(9, 6), latent_dim=5), N_ITEMS)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "encoder.table": (N_ITEMS, 9),
        "encoder.bias": (9,),
        "encoder.layers.0.weight": (6, 9),
        "encoder.layers.0.bias": (6,),
        "encoder.layers.1.weight": (10, 6),
        "encoder.layers.1.bias": (10,),
        "decoder.layers.0.weight": (6, 5),
        "decoder.layers.0.bias": (6,),
        "decoder.layers.1.weight": (9, 6),
        "decoder.layers.1.bias": (9,),
        "decoder.table": (N_ITEMS, 9),
        "decoder.bias": (N_ITEMS,),
    }
    assert model.tables == [model.encoder.table, model.decoder.table]


ALL = {
    "multi-vae": {"hidden_dims": (9, 6), "latent_dim": 5},
    "recvae": {"hidden_dims": (9, 9), "latent_dim": 5},
    "h-vamp-gated": {"hidden_dims": (9, 6), "latent_dim": 6, "prior": {"n_pseudo_inputs": 7}},
}


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_every_weight(name: str) -> None:
    config = ModelConfig.read({"name": name, **ALL[name]})
    first, again, other = (VAE(config, N_ITEMS).initialized(seed) for seed in (3, 3, 4))
    for name, value in first.named_parameters():
        assert torch.equal(value, again.get_parameter(name)), name
        assert not torch.equal(value, other.get_parameter(name)) or ".norms." in name, name
        assert value.isfinite().all(), name


@pytest.mark.parametrize("name", ALL)
def test_the_state_is_all_that_is_needed(name: str) -> None:
    """Configuration and state give the same model again, its prior too."""
    config = ModelConfig.read({"name": name, **ALL[name]})
    model = VAE(config, N_ITEMS).initialized(3)
    with torch.device("meta"):
        again = VAE(ModelConfig.read(config.model_dump(mode="json")), N_ITEMS)
    again.load_state_dict(model.state_dict(), assign=True)
    batch = batch_of(random_histories(4, N_ITEMS, seed=0), N_ITEMS)
    z = torch.randn(4, config.latent_dim, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(batch), model(batch))
    assert torch.equal(again.log_prior(z, batch), model.log_prior(z, batch))


def test_recvaes_state_holds_the_snapshot() -> None:
    model = VAE(ModelConfig.read({"name": "recvae", **ALL["recvae"]}), N_ITEMS)
    names = set(model.state_dict())
    assert {f"prior.snapshot.{name}" for name in model.encoder.state_dict()} < names
    assert {name for name in names if name.startswith("decoder.")} == {
        "decoder.table",
        "decoder.bias",
    }
    assert model.decoder.table.shape == (N_ITEMS, 5)
    assert model.tables == [model.encoder.table, model.decoder.table]


def test_ranking_is_deterministic_and_rows_do_not_depend_on_the_batch() -> None:
    model = VAE(ModelConfig(hidden_dims=(9,), latent_dim=5), N_ITEMS).initialized(0)
    histories = random_histories(8, N_ITEMS, seed=0)
    logits = model(batch_of(histories, N_ITEMS))
    assert torch.equal(model(batch_of(histories, N_ITEMS)), logits)
    for user, history in enumerate(histories):
        alone = model(batch_of([history], N_ITEMS))
        torch.testing.assert_close(alone[0], logits[user], rtol=1e-5, atol=1e-6)


def test_all_bits_of_a_seed_count() -> None:
    def first(seed: int) -> torch.Tensor:
        model = VAE(ModelConfig(hidden_dims=(9,), latent_dim=5), N_ITEMS)
        return model.initialized(seed).encoder.table.detach()

    seeds = [7, 7 + 2**32, 7 + 2**33, 2**63 - 1, 2**32 - 1]
    tables = [first(seed) for seed in seeds]
    for place, table in enumerate(tables):
        assert not any(torch.equal(table, other) for other in tables[:place])
    model = VAE(ModelConfig(hidden_dims=(9,), latent_dim=5), N_ITEMS)
    model.encoder.reset_parameters(torch.Generator().manual_seed(7))
    assert torch.equal(model.encoder.table, tables[0]), "below 2**32 the seed is torch's own"
