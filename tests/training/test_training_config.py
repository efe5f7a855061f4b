from typing import Any

import pytest
import torch
from small_run import experiment, run

from coterie.devices import has_bf16_units
from coterie.errors import ConfigError
from coterie.training.config import Experiment, RunContext, TrainingConfig


def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'cuda' is not available here; available:.*cpu"):
        RunContext(device="cuda").torch_device()


def test_the_device_is_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert RunContext().torch_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert RunContext().torch_device() == torch.device("cuda")
    assert RunContext(device="cpu").torch_device() == torch.device("cpu")


def test_apples_processor_is_chosen_where_there_is_no_cuda_and_works_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert RunContext(device="auto").torch_device() == torch.device("mps")
    assert RunContext(device="auto").torch_dtype() == torch.float32


@pytest.mark.parametrize("units", [True, False])
def test_the_precision_follows_the_processors_units(
    monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    capabilities = {"avx512_bf16": units, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    chosen = RunContext(device="cpu").torch_dtype()
    assert chosen == (torch.bfloat16 if units else torch.float32)
    assert RunContext(device="cpu", precision="fp32").torch_dtype() == torch.float32
    assert RunContext(device="cpu", precision="bf16").torch_dtype() == torch.bfloat16


def test_other_processors_have_float32() -> None:
    assert not has_bf16_units(torch.device("mps"))


@pytest.mark.parametrize(
    "values", [{"device": "tpu"}, {"precision": "fp16"}, {"checkpoint_minutes": 0}, {"devise": 1}]
)
def test_nonsense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="RunContext"):
        RunContext.read(values)


def test_alignment_of_a_point_posterior_needs_the_mean() -> None:
    values: dict[str, dict[str, Any]] = {
        "model": {"name": "multi-dae"},
        "objective": {"alignment": {"end": 1}},
    }
    assert Experiment.read(values).objective.aligned
    values["objective"]["align_mean"] = False
    with pytest.raises(ConfigError, match="multi-dae has a point posterior"):
        Experiment.read(values)
    Experiment.read({**values, "objective": {"align_mean": False}})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_beyond_63_bits_are_refused(seed: int) -> None:
    assert TrainingConfig(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ConfigError, match=r"TrainingConfig\.seed"):
        TrainingConfig.read({"seed": seed})


@pytest.mark.parametrize(
    "metric", ["ndcg@010", "ndcg@0", "ndcg@", "ndcg", "ndcg@٣", "ndcg@+1", "ndcg@1000000000000"]
)
def test_what_is_no_metric_is_refused(metric: str) -> None:
    assert TrainingConfig(metric="ndcg@10").metric == "ndcg@10"
    with pytest.raises(ConfigError, match="a metric reads name@cut"):
        TrainingConfig.read({"metric": metric})


DECAY = {"kind": "linear", "end": 0.0, "epochs": 20}


def test_a_learning_rate_that_ends_at_zero_lasts_as_long_as_training() -> None:
    settings = TrainingConfig.read({"epochs": 20, "learning_rate_schedule": DECAY})
    assert settings.learning_rate_schedule.value(0, 1) == 1
    assert settings.learning_rate_schedule.value(19, 1) == pytest.approx(0.05)
    with pytest.raises(ConfigError, match="learning rate is 0 after 20 of 21 epochs"):
        TrainingConfig.read({"epochs": 21, "learning_rate_schedule": DECAY})
    TrainingConfig.read({"epochs": 21, "learning_rate_schedule": {**DECAY, "end": 0.01}})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"end": 0}, "constant learning rate of 0.*kind='linear'"),
        ({**DECAY, "start": 0}, "linear learning rate that begins at 0.*20 epochs"),
        ({"kind": "delayed", "start": 0, "epochs": 5}, "delayed learning rate that begins at 0"),
    ],
)
def test_a_learning_rate_that_learns_nothing_is_refused(
    schedule: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.read({"epochs": 20, "learning_rate_schedule": schedule})


def test_a_warm_up_from_zero_is_no_mistake() -> None:
    schedule = {"kind": "warm-up", "start": 0, "epochs": 5}
    settings = TrainingConfig.read({"learning_rate_schedule": schedule})
    assert settings.learning_rate_schedule.value(1, 1) == pytest.approx(0.2)


def test_a_decayed_run_records_its_rates() -> None:
    result = run(experiment(learning_rate_schedule={**DECAY, "epochs": 3}))
    rates = [record["learning_rate"] for record in result.history]
    assert rates == pytest.approx([5e-3 * (1 - step / 51) for step in (16, 33, 50)])
