from typing import Any

import pytest

from coterie import presets
from coterie.errors import ConfigError
from coterie.objectives.schedules import Schedule
from coterie.presets import PRESETS, Choice, Range
from coterie.training.config import Experiment


def test_their_names_are_the_literatures() -> None:
    plain = ("multi-vae", "multi-dae", "recvae", "h-vamp-gated")
    assert set(PRESETS) == {*plain, *(f"{name}+pia" for name in plain)}


def test_multi_vae_is_the_default_and_the_authors() -> None:
    """Liang et al.: the sizes, ρ, cap of β, step size and batches of the paper."""
    settings = presets.experiment("multi-vae")
    assert settings == Experiment()
    assert settings.model.hidden_dims == settings.model.decoder_widths == (600,)
    assert (settings.model.latent_dim, settings.objective.keep_probability) == (200, 0.5)
    beta = settings.objective.beta
    assert beta is not None
    assert (beta.kind, beta.start, beta.end) == ("linear", 0, 0.2)
    assert (settings.training.learning_rate, settings.training.batch_size) == (1e-3, 500)


def test_multi_dae_is_the_authors() -> None:
    """Liang et al.: no hidden layer beside the code, and no divergence."""
    settings = presets.experiment("multi-dae")
    assert (settings.model.hidden_dims, settings.model.decoder_widths) == ((), ())
    assert (settings.model.latent_dim, settings.model.prior.kind) == (200, "none")
    assert not settings.model.variational
    assert settings.objective.keep_probability == 0.5


@pytest.mark.parametrize(
    ("name", "weight"),
    [("multi-vae", 1.0), ("multi-dae", 1.0), ("recvae", 0.005), ("h-vamp-gated", 1.0)],
)
def test_the_weight_of_alignment(name: str, weight: float) -> None:
    assert presets.experiment(f"{name}+pia").objective.alignment == Schedule(end=weight)


def test_recvae_is_the_authors() -> None:
    """Shenbin et al.: sizes, γ and 3 + 1 epochs of the paper, step size of their script."""
    settings = presets.experiment("recvae")
    assert settings.model.hidden_dims == (600, 600, 600, 600, 600)
    assert (settings.model.latent_dim, settings.model.decoder_widths) == (200, ())
    assert (settings.objective.gamma, settings.objective.beta) == (0.005, None)
    training = settings.training
    assert (training.encoder_epochs, training.decoder_epochs) == (3, 1)
    assert (training.learning_rate, training.batch_size, training.epochs) == (5e-4, 500, 200)


def test_h_vamp_is_the_authors() -> None:
    """Kim & Suh: the sizes and settings of their example and their script's defaults."""
    settings = presets.experiment("h-vamp-gated")
    assert settings.model.hidden_dims == (600, 600)
    assert (settings.model.latent_dim, settings.model.prior.n_pseudo_inputs) == (400, 1000)
    beta = settings.objective.beta
    assert beta is not None
    assert (beta.kind, beta.start, beta.end, beta.epochs) == ("linear", 0, 0.3, 100)
    training = settings.training
    assert (training.batch_size, training.learning_rate) == (200, 5e-4)
    assert (training.epochs, training.patience) == (400, 50)


@pytest.mark.parametrize("name", PRESETS)
def test_pia_is_all_that_the_suffix_adds(name: str) -> None:
    settings = presets.experiment(name)
    assert settings.objective.aligned == name.endswith("+pia")
    plain = presets.experiment(name.removesuffix("+pia"))
    off = plain.objective.alignment
    objective = settings.objective.model_copy(update={"alignment": off})
    assert settings.model_copy(update={"objective": objective}) == plain
    assert settings.model.name == name.removesuffix("+pia")


def test_overrides_replace_single_settings() -> None:
    changed = {"objective": {"alignment": {"end": 3}}, "model": {"latent_dim": 7}}
    settings = presets.experiment("recvae+pia", changed)
    assert settings.objective.alignment.end == 3
    assert settings.objective.gamma == 0.005
    assert (settings.model.latent_dim, settings.model.prior.kind) == (7, "composite")


@pytest.mark.parametrize(
    ("name", "message"),
    [("recvea+pia", "did you mean 'recvae\\+pia'"), ("ease", "It is one of multi-vae"), ("", "It")],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    for function in (presets.experiment, presets.search_space, presets.architecture):
        with pytest.raises(ConfigError, match=message):
            function(name)


# ---- search spaces


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def setting(settings: Experiment, dotted: str) -> Any:
    value: Any = settings
    for key in dotted.split("."):
        value = getattr(value, key)
    return value


@pytest.mark.parametrize("name", PRESETS)
def test_every_corner_of_a_space_is_a_valid_setting_that_arrives(name: str) -> None:
    space = presets.search_space(name)
    assert ("objective.alignment.end" in space) == name.endswith("+pia")
    for dotted, domain in space.items():
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in values:
            found = setting(presets.experiment(name, nested(dotted, value)), dotted)
            assert found == value, dotted


@pytest.mark.parametrize("name", PRESETS)
def test_a_space_holds_the_presets_own_values(name: str) -> None:
    """A tuner may then begin with them."""
    for dotted, domain in presets.search_space(name).items():
        own = setting(presets.experiment(name), dotted)
        if isinstance(domain, Choice):
            assert own in domain.values, dotted
        else:
            assert domain.low <= own <= domain.high, dotted


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True)]
)
def test_empty_ranges_are_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(ConfigError, match="low < high"):
        Range(low, high, log)


def test_a_choice_has_alternatives() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Choice((1,))


# ---- what file and flags give


def resolved(given: dict[str, Any], base: dict[str, Any] | None = None) -> Experiment:
    return Experiment.read(dict(presets.resolved(given, base)))


def test_a_name_is_the_base_of_what_is_given() -> None:
    given = {"model": {"name": "recvae+pia", "latent_dim": 9}, "training": {"epochs": 8}}
    expected = presets.experiment(
        "recvae+pia", {"model": {"latent_dim": 9}, "training": {"epochs": 8}}
    )
    assert resolved(given) == expected
    assert resolved({}) == Experiment()
    assert given["model"]["name"] == "recvae+pia", "what is given stays as it is"


def test_one_weight_of_the_divergence_replaces_the_other() -> None:
    gamma = resolved({"objective": {"gamma": 0.01}}).objective
    assert (gamma.gamma, gamma.beta) == (0.01, None)
    beta = resolved({"model": {"name": "recvae"}, "objective": {"beta": {"end": 0.4}}}).objective
    assert beta.gamma is None
    assert beta.beta is not None
    assert beta.beta.end == 0.4
    with pytest.raises(ConfigError, match="both are given"):
        resolved({"objective": {"gamma": 0.01, "beta": {"end": 0.4}}})


def test_a_runs_own_settings_take_the_presets_place() -> None:
    own = presets.experiment("recvae+pia", {"training": {"epochs": 8}})
    base = own.model_dump(mode="json")
    assert resolved({"model": {"name": "recvae+pia"}}, base) == own
    assert resolved({"objective": {"gamma": 0.01}}, base).objective.alignment.end == 0.005
    longer = resolved({"training": {"epochs": 12}}, base)
    assert longer.training.epochs == 12
    assert longer.training.encoder_epochs == 3


def test_alignment_that_is_asked_for_and_switched_off_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"recvae\+pia aligns, but alignment.end is 0"):
        resolved({"model": {"name": "recvae+pia"}, "objective": {"alignment": {"end": 0}}})
    plain = presets.experiment("recvae").model_dump()
    with pytest.raises(ConfigError, match=r"leave out \+pia"):
        resolved({"model": {"name": "recvae+pia"}}, plain)


@pytest.mark.parametrize("given", [{"model": 3}, {"objective": 3}, {"model": {"name": 3}}])
def test_what_is_no_table_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        resolved(given)
