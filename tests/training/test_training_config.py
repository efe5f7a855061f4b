import pytest
import torch

from coterie.devices import has_bf16_units
from coterie.errors import ConfigError
from coterie.training.config import RunContext


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
