"""On a GPU the same happens as on the CPU: training, ranking, measuring, saving."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.batches import UserBatches, user_batch
from coterie.evaluation.protocol import evaluate
from coterie.mechanisms.diagnose import diagnose
from coterie.mechanisms.explanation import explain
from coterie.mechanisms.measurement import Budget
from coterie.models import hierarchical, posterior
from coterie.models.baselines import METHODS
from coterie.objectives.implicit_slim import implicit_slim
from coterie.objectives.masking import MaskConfig, draw_mask, popularity_keep
from coterie.presets import PRESETS
from coterie.ranking import top_k
from coterie.recommender import Recommender
from coterie.training.config import Experiment, RunContext
from coterie.training.loop import TrainingResult
from coterie.training.state import TrainingState, training_step
from training.small_run import experiment, preset, run, small_split

pytestmark = pytest.mark.gpu
THERE = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
presets = pytest.mark.parametrize("name", PRESETS)
BASELINES: dict[str, dict[str, Any]] = {"puresvd": {"factors": 8}, "ials": {"factors": 8}}


@pytest.fixture(params=THERE)
def device(request: pytest.FixtureRequest) -> torch.device:
    if not THERE[request.param]():
        pytest.skip(f"no {request.param} device")
    return torch.device(request.param)


def within(device: torch.device, precision: str = "fp32") -> RunContext:
    return RunContext.read({"device": device.type, "precision": precision})


def clean(settings: Experiment) -> Experiment:
    """The same with nothing masked: masks are drawn on the device, and differ."""
    return settings.model_copy(
        update={"objective": settings.objective.model_copy(update={"keep_probability": 1.0})}
    )


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that do not depend on the device."""

    def draw(mu: Tensor, logvar: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.sin(torch.arange(mu.numel(), device=mu.device) * 1.7).view(mu.shape)
        return mu + 1.4 * noise * torch.exp(0.5 * logvar)

    for module in (posterior, hierarchical):
        monkeypatch.setattr(module, "draw_normal", draw)


def after_steps(settings: Experiment, context: RunContext, n_steps: int) -> tuple[Any, list[float]]:
    """The weights on the CPU, by name, and the loss terms of each step."""
    data = small_split().train
    state = TrainingState.create(settings, data.n_items, context)
    state.objective.prepared(data, state.generator.device)
    batches = UserBatches(data, 50, 0, settings.objective.extras)
    terms: list[float] = []
    for batch in batches.epoch(0):
        terms += training_step(state, batch, settings, 2).tolist()
        state.progress.step += 1
        if state.progress.step == n_steps:
            break
    named = {
        f"{prefix}.{name}": value.detach().cpu()
        for prefix, module in state.modules.items()
        for name, value in module.named_parameters()
    }
    return named, terms


@presets
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_steps_move_the_weights_as_on_the_cpu(name, clip_norm, device, same_noise):
    """Five steps, which for RecVAE are of encoder and decoder; sums differ in their order only."""
    settings = clean(preset(name, clip_norm=clip_norm))
    there, terms = after_steps(settings, within(device), 5)
    here, expected = after_steps(settings, RunContext(device="cpu", precision="fp32"), 5)
    np.testing.assert_allclose(terms, expected, rtol=2e-4, atol=1e-4)
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=2e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize(
    "anchors",
    [
        {"kind": "low-rank", "rank": 4},
        {"kind": "decoder-tied", "weighting": "inverse-popularity"},
        {"kind": "encoder-tied", "n_centroids": 3},
    ],
)
def test_all_kinds_of_anchors_move_as_on_the_cpu(anchors, device, same_noise):
    settings = experiment(objective={"anchors": anchors, "keep_probability": 1.0})
    there, terms = after_steps(settings, within(device), 5)
    here, expected = after_steps(settings, RunContext(device="cpu", precision="fp32"), 5)
    np.testing.assert_allclose(terms, expected, rtol=2e-4, atol=1e-4)
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=2e-3, atol=2e-4, msg=key)


@presets
def test_bf16_trains_about_as_fp32(name, device):
    losses = [
        [epoch["nll"] for epoch in run(preset(name), within=within(device, precision)).history]
        for precision in ("bf16", "fp32")
    ]
    np.testing.assert_allclose(*losses, rtol=0.02)


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], TrainingResult]:
    return {}


@pytest.fixture
def trained(
    results: dict[tuple[str, str], TrainingResult], name: str, device: torch.device
) -> TrainingResult:
    """A preset trained on the device, once for all tests."""
    if (name, device.type) not in results:
        results[name, device.type] = run(preset(name), within=within(device))
    return results[name, device.type]


def on_cpu(recommender: Recommender, folder: Path) -> Recommender:
    return Recommender.load(recommender.save(folder / "model"), device="cpu")


@presets
def test_it_recommends_and_is_evaluated_as_its_copy_on_the_cpu(name, device, trained, tmp_path):
    there, test = trained.recommender, small_split().test
    here = on_cpu(there, tmp_path)
    assert there.device.type == device.type
    torch.testing.assert_close(
        there.score(test.fold_in).cpu(), here.score(test.fold_in), rtol=1e-3, atol=1e-3
    )
    options = {"k": 7, "deny": list(small_split().train.item_ids.ids[:5])}
    found, expected = (one.recommend(test.fold_in, **options) for one in (there, here))
    assert (found.item_index == expected.item_index).mean() > 0.98  # but for near ties
    assert found.item_index.min() >= 5
    by_there, by_here = (evaluate(one, test, ks=(20,))["ndcg@20"] for one in (there, here))
    assert by_there == pytest.approx(by_here, abs=2e-3)
    items = list(small_split().train.item_ids.ids[:30])
    alike, also = (one.similar_items(items, k=3).item_index for one in (there, here))
    assert (alike == also).mean() > 0.95
    assert there.recommend([[]], k=3).fallback.all()


@presets
def test_a_saved_model_comes_back_to_the_device_bit_for_bit(name, device, trained, tmp_path):
    folder = trained.recommender.save(tmp_path / "model")
    again = Recommender.load(folder, device=device.type)
    assert again.device.type == device.type
    for one, other in zip(
        trained.recommender.model.parameters(), again.model.parameters(), strict=True
    ):
        assert one.equal(other)


@presets
def test_it_is_measured_and_explained(name, device, trained):
    data = small_split().train
    found = diagnose(trained.recommender, data, budget=Budget(seconds=0.3))
    left_out = {"compromise", "information"} if name.startswith("multi-dae") else set()
    assert set(found.skipped) == left_out
    user, generator = str(data.user_ids.ids[3]), torch.Generator().manual_seed(0)
    why = explain(trained.recommender, user, data, k=3, generator=generator)
    assert why.neighbourhood is not None
    assert why.n_history == data.history_lengths[3]


@presets
def test_a_run_goes_on_where_it_stopped_also_on_another_device(name, device, tmp_path):
    """A GPU adds up in no fixed order, hence "about"; from the CPU, other masks are drawn."""
    whole = run(preset(name), within=within(device), folder=tmp_path / "whole")
    run(preset(name, epochs=4), within=within(device), folder=tmp_path / "parts")
    parts = run(preset(name), within=within(device), folder=tmp_path / "parts", resume=True)
    losses = [[epoch["nll"] for epoch in result.history] for result in (parts, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    run(preset(name, epochs=4), folder=tmp_path / "moved")
    moved = run(preset(name), within=within(device), folder=tmp_path / "moved", resume=True)
    assert len(moved.history) == 8
    assert moved.history[-1]["nll"] == pytest.approx(whole.history[-1]["nll"], rel=0.03)


@pytest.mark.parametrize("kind", ["bernoulli", "popularity", "random-rate"])
def test_masks_keep_their_share(kind, device):
    data = small_split().train
    batch = user_batch(data, np.arange(data.n_users)).to(device)
    keep = torch.from_numpy(popularity_keep(data.item_counts(), 0.6, 0.5)).float().to(device)
    config = MaskConfig.read({"kind": kind})
    generator = torch.Generator(device).manual_seed(1)
    kept = sum(len(draw_mask(batch, config, 0.6, generator, keep).indices) for _ in range(40)) / (
        40 * data.nnz
    )
    assert kept == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranking_breaks_ties_as_on_the_cpu(dtype, device):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(-6, 6, (50, 3_000), generator=generator).to(dtype) / 4
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = -torch.inf
    scores[7] = -torch.inf
    for k in (1, 20, 3_500):
        found, expected = top_k(scores.to(device), k), top_k(scores, k)
        assert found.indices.cpu().equal(expected.indices)
        assert found.scores.cpu().equal(expected.scores)


def test_implicit_slim_is_the_same(device):
    data = small_split().train
    table = torch.randn(data.n_items, 12, generator=torch.Generator().manual_seed(0))
    options = {"l2": 20.0, "alpha": 0.1, "min_users": 2}
    there = implicit_slim(table.to(device), data, **options).cpu()
    torch.testing.assert_close(there, implicit_slim(table, data, **options), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_baselines_score_as_on_the_cpu(name, device, tmp_path):
    split = small_split()
    here = Recommender.fit(METHODS[name].config.read(BASELINES.get(name, {})), split.train)
    there = Recommender.load(here.save(tmp_path / "model"), device=device.type)
    assert there.device.type == device.type
    torch.testing.assert_close(
        there.score(split.test.fold_in).cpu(), here.score(split.test.fold_in), rtol=1e-3, atol=1e-4
    )
