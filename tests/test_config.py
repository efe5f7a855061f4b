import tomllib

import pytest
from pydantic import Field, ValidationError

from coterie.config import Config
from coterie.errors import ConfigError
from coterie.experiment.events import Event
from coterie.training.config import Experiment, TrainingConfig


class Oven(Config):
    degrees: float = Field(180, gt=0)
    minutes: int = 30


class Kitchen(Config):
    oven: Oven = Oven()


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"degree": 3}, ["Oven", "'degree'", "did you mean 'degrees'?", "degrees, minutes"]),
        ({"zzz": 3}, ["Oven has no setting 'zzz'.", "degrees, minutes"]),
        ({"degrees": -1}, ["Oven.degrees", "greater than 0", "-1"]),
        ({"degrees": "hot"}, ["Oven.degrees", "number", "'hot'"]),
        ({"minutes": 1.5}, ["Oven.minutes", "integer", "1.5"]),
        ({"degrees": float("nan")}, ["Oven.degrees", "finite"]),
        ({"degrees": float("inf")}, ["Oven.degrees", "finite"]),
    ],
)
def test_nonsense_is_named(values: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        Oven.read(values)
    for part in parts:
        assert part in str(error.value)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        Oven.read({"degrees": 0, "minutes": "x"})
    assert "Oven.degrees" in str(error.value)
    assert "Oven.minutes" in str(error.value)


def test_nested_settings_are_named_with_their_path() -> None:
    with pytest.raises(ConfigError) as error:
        Kitchen.read({"oven": {"minute": 3}})
    assert str(error.value) == (
        "Kitchen.oven: Oven has no setting 'minute'; did you mean 'minutes'? "
        "It knows: degrees, minutes."
    )
    with pytest.raises(ConfigError, match=r"Kitchen\.oven\.degrees"):
        Kitchen.read({"oven": {"degrees": 0}})


def test_what_is_missing_is_named_without_what_is_there() -> None:
    with pytest.raises(ConfigError) as raised:
        Event.read({"event_id": "1", "user": "ann", "kind": "click"})
    assert str(raised.value) == "Event.time: Field required"


def test_the_name_is_not_said_twice() -> None:
    with pytest.raises(ConfigError) as raised:
        Event.read({"usr": 1})
    assert str(raised.value).startswith("Event has no setting 'usr'; did you mean 'user'?")


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Oven().minutes = 3  # type: ignore[misc]


def test_an_experiment_is_read_from_toml_and_survives_json() -> None:
    text = """
    model = {hidden_dims = [10, 5], latent_dim = 4}
    [objective]
    keep_probability = 0.7
    alignment = {kind = "linear", start = 0.1, end = 1, epochs = 3}
    [training]
    epochs = 2
    """
    experiment = Experiment.read(tomllib.loads(text))
    assert experiment.model.hidden_dims == (10, 5)
    assert experiment.objective.alignment.value(0, 10) == 0.1
    assert Experiment.read(experiment.model_dump(mode="json")) == experiment


def test_the_nearest_key_is_named_deep_inside_an_experiment() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'keep_probability'\?"):
        Experiment.read({"objective": {"keep_prob": 0.5}})
    with pytest.raises(ConfigError, match=r"did you mean 'epochs'\?"):
        Experiment.read({"objective": {"beta": {"kind": "linear", "epoch": 5}}})


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"batch_size": 2.5},
        {"learning_rate": 0},
        {"learning_rate": float("inf")},
        {"weight_decay": -0.1},
        {"clip_norm": 0},
        {"patience": 0},
        {"evaluate_every": 0},
        {"seed": -1},
        {"seed": None},
    ],
)
def test_training_settings_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"TrainingConfig.{next(iter(values))}"):
        TrainingConfig.read(values)


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"latent_dim": 0}},
        {"model": {"hidden_dims": [600, 0]}},
        {"model": {"name": "multi-vea"}},
        {"objective": {"keep_probability": 0}},
        {"objective": {"keep_probability": 1.01}},
        {"objective": {"beta": {"end": -1}}},
    ],
)
def test_model_and_objective_settings_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Experiment\.(model|objective)\."):
        Experiment.read(values)
