"""The published figures, spot by spot, and the report's arithmetic."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from coterie.comparison.contestants import BaselineContestant, VaeContestant
from coterie.comparison.folder import Run
from coterie.data.datasets import DATASETS
from coterie.reproduce.invented import invented
from coterie.reproduce.models import usual_contestant, usual_models
from coterie.reproduce.protocol import liang_split
from coterie.reproduce.published import GOWALLA_METRICS, LIANG_METRICS, metrics_of, published
from coterie.reproduce.report import Row, cells, markdown, notes, rows, to_dict
from coterie.reproduce.run import Reproduction
from coterie.reproduce.sizes import SIZES
from coterie.training.config import Experiment
from raw_files import small


@pytest.mark.parametrize(
    ("data", "model", "metric", "value"),
    [
        ("ml-20m", "multi-dae", "recall_capped@50", 0.524),
        ("ml-20m", "multi-vae", "ndcg@100", 0.426),
        ("ml-20m", "multi-vae+pia", "recall_capped@20", 0.408),
        ("ml-20m", "ease", "ndcg@100", 0.420),
        ("ml-20m", "recvae", "recall_capped@50", 0.553),
        ("ml-20m", "h-vamp-gated", "ndcg@100", 0.445),
        ("ml-20m", "VASP", "ndcg@100", 0.448),
        ("netflix", "multi-dae", "recall_capped@20", 0.344),
        ("netflix", "multi-vae+pia", "ndcg@100", 0.392),
        ("netflix", "ease", "recall_capped@50", 0.445),
        ("netflix", "h-vamp-gated", "recall_capped@50", 0.463),
        ("netflix", "VASP", "recall_capped@20", 0.372),
        ("msd", "multi-vae", "recall_capped@50", 0.364),
        ("msd", "ease", "ndcg@100", 0.389),
        ("msd", "recvae", "recall_capped@20", 0.276),
        ("msd", "multi-vae+pia", "ndcg@100", 0.326),
        ("gowalla", "multi-vae", "recall@20", 0.1641),
        ("gowalla", "LightGCN", "ndcg@20", 0.1554),
        ("gowalla", "UltraGCN", "recall@20", 0.1862),
    ],
)
def test_spot_values(data: str, model: str, metric: str, value: float) -> None:
    (row,) = [row for row in published(data) if row.model == model]
    assert row.figures[metric] == value


def test_how_many_figures_there_are() -> None:
    counts = {data: sum(len(row.figures) for row in published(data)) for data in SIZES}
    assert counts == {"ml-20m": 20, "netflix": 20, "msd": 13, "gowalla": 6, "ml-1m": 0}
    for data in SIZES:
        for row in published(data):
            assert row.source
            assert set(row.figures) <= set(metrics_of(data))
    assert metrics_of("gowalla") == GOWALLA_METRICS == ("recall@20", "ndcg@20")
    assert metrics_of("ml-1m") == LIANG_METRICS


def test_sizes_and_catalogue_name_the_same_data() -> None:
    assert set(SIZES) <= set(DATASETS)
    assert SIZES["ml-20m"].unpacked_bytes == pytest.approx(533_444_411, rel=0.05)  # ratings.csv


def test_usual_models_and_their_settings() -> None:
    assert usual_models("msd") == (
        "multi-dae", "multi-vae", "multi-vae+pia", "ease", "recvae", "multi-dae+pia", "recvae+pia",
    )  # fmt: skip
    assert usual_models("gowalla") == ("multi-vae", "multi-vae+pia")
    assert usual_models("ml-1m") == usual_models("ml-20m")
    gammas = {}
    for data in ("ml-20m", "netflix", "msd"):
        one = usual_contestant("recvae+pia", data)
        assert isinstance(one, VaeContestant)
        gammas[data] = one.experiment.objective.gamma
        assert one.experiment.training.metric == "ndcg@100"
        linear = usual_contestant("ease", data)
        assert isinstance(linear, BaselineContestant)
        gammas[data, "ease"] = linear.config().l2  # type: ignore[attr-defined]
    assert gammas == {
        "ml-20m": 0.005, "netflix": 0.0035, "msd": 0.01,
        ("ml-20m", "ease"): 500.0, ("netflix", "ease"): 1000.0, ("msd", "ease"): 200.0,
    }  # fmt: skip


def settings(model: str, data: str) -> Experiment:
    contestant = usual_contestant(model, data)
    assert isinstance(contestant, VaeContestant)
    return contestant.experiment


@pytest.mark.parametrize(
    ("data", "epochs", "annealing"),
    [("ml-20m", 200, 40_000 / 234), ("netflix", 100, 40_000 / 767), ("msd", 100, 40_000 / 943)],
)
def test_multi_vae_is_trained_as_in_its_paper(data: str, epochs: int, annealing: float) -> None:
    """β rises by 1 / 200 000 a step, to 0.2; ceil(training users / 500) steps are an epoch."""
    for name in ("multi-vae", "multi-vae+pia", "multi-dae", "multi-dae+pia"):
        found = settings(name, data)
        assert (found.training.epochs, found.training.batch_size) == (epochs, 500)
        assert found.training.patience is None
        beta = found.objective.beta
        assert beta is not None
        if name.startswith("multi-vae"):
            assert (beta.kind, beta.end, beta.epochs) == ("linear", 0.2, pytest.approx(annealing))
        else:
            assert beta.end == 0
    assert settings("multi-vae", data).objective.alignment.end == 0
    assert settings("multi-vae+pia", data).objective.alignment.end == 8


def test_gowallas_settings_are_our_own() -> None:
    for name, weight in (("multi-vae", 0.0), ("multi-vae+pia", 0.1)):
        found = settings(name, "gowalla")
        assert found.training.metric == "ndcg@20"
        assert found.model.hidden_dims == ()
        assert found.training.learning_rate_schedule.end == 0
        assert found.objective.alignment.end == weight


def finished(seed: int, name: str, value: float) -> Run:
    """A run with this mean over two users in every metric."""
    users = pl.DataFrame({metric: [value - 0.1, value + 0.1] for metric in LIANG_METRICS})
    values: dict[str, Any] = {
        "settings": {}, "seconds": {"train": 1.0}, "peak_memory": 5, "epochs": None,
        "best_epoch": None,
    }  # fmt: skip
    return Run(seed, name, values, users)


def reproduction(name: str = "ml-20m") -> Reproduction:
    data = replace(small(name), protocol=replace(small(name).protocol, held_out_users=10))
    split = liang_split(invented(60, 40, 600), held_out_users=10)
    runs = {
        "ease": [finished(0, "ease", 0.41), finished(1, "ease", 0.44)],
        "mine": [finished(0, "mine", 0.5), finished(1, "mine", 0.5)],
    }
    return Reproduction(data, split, runs)


def test_a_quick_look_is_told_from_full_training() -> None:
    found = reproduction()
    assert not any("Epochs" in line for line in notes(found))
    for run in found.runs["mine"]:
        run.values["settings"] = {"experiment": {"training": {"epochs": 3}}}
    assert any("at most" in line and "mine 3." in line for line in notes(found))
    assert "mine 3." in markdown(found)


def test_rows_are_differences_to_the_source() -> None:
    found = {(row.model, row.metric): row for row in rows(reproduction())}
    ease = found["ease", "ndcg@100"]
    assert ease.ours == pytest.approx(0.425)
    assert ease.deviation == pytest.approx(np.std([0.41, 0.44], ddof=1))
    assert ease.difference == pytest.approx(0.425 - 0.420)
    assert "Steck" in ease.source
    assert cells(ease) == ("ease", "0.4250 ±0.0212", "0.420", "+0.0050", ease.source)
    assert cells(found["VASP", "ndcg@100"])[1:4] == ("–", "0.448", "–")
    assert cells(found["mine", "ndcg@100"])[2:] == ("–", "–", "–")
    assert ("multi-vae+pia", "recall_capped@50") not in found  # neither ours nor published
    assert cells(Row("m", "recall@20", (0.15,), 0.1641, "s"))[1:4] == (
        "0.1500", "0.1641", "−0.0141",
    )  # fmt: skip


def test_the_report_in_words_and_as_json() -> None:
    found = reproduction()
    text = markdown(found)
    assert "| ease | 0.4250 ±0.0212 | 0.420 | +0.0050 | Steck, WWW 2019" in text
    assert "users: 60 (recorded 136,677)" in text
    facts = to_dict(found)
    assert facts["sizes"]["users"] == {"ours": 60, "recorded": 136_677}
    assert facts["seeds"] == [0, 1]
    (row,) = [r for r in facts["rows"] if (r["model"], r["metric"]) == ("ease", "ndcg@100")]
    assert row["seeds"] == pytest.approx([0.41, 0.44])
    nothing = markdown(reproduction("ml-1m"))
    assert "no common figures for MovieLens 1M" in nothing
