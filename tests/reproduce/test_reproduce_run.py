"""The whole way from the raw files to the figures beside the published ones, and its price."""

from pathlib import Path

import pytest

from coterie.comparison.contestants import BaselineContestant, VaeContestant
from coterie.comparison.runs import RunOptions
from coterie.data.datasets import dataset
from coterie.errors import ConfigError, DataError, StorageError
from coterie.evaluation.protocol import evaluate
from coterie.models.baselines import METHODS
from coterie.presets import experiment
from coterie.recommender import Recommender
from coterie.reproduce import probe
from coterie.reproduce.cost import estimate
from coterie.reproduce.invented import invented
from coterie.reproduce.probe import ModelCost, Probe
from coterie.reproduce.published import metrics_of, published
from coterie.reproduce.report import rows
from coterie.reproduce.run import CUTS, prepared, reproduce
from coterie.reproduce.sizes import Sizes
from coterie.training.config import RunContext
from coterie.training.loop import train
from raw_files import RAW, small, write_raw

HERE = RunContext(device="cpu", precision="fp32")
EASE = BaselineContestant(name="ease", method="ease", options={"l2": 50.0})


@pytest.mark.parametrize("name", RAW)
def test_from_raw_files_to_figures(name: str, tmp_path: Path) -> None:
    raw, _ = write_raw(name, tmp_path)
    out = tmp_path / "out"
    split = prepared(small(name), raw, out)
    found = reproduce(small(name), split, [EASE], out, seeds=[0], options=RunOptions(HERE))
    assert found is not None
    model = Recommender.fit(METHODS["ease"].config.read({"l2": 50.0}), found.split.train)
    expected = evaluate(model, found.split.test, ks=CUTS)
    table = {(row.model, row.metric): row for row in rows(found)}
    for metric in found.metrics:
        row = table["ease", metric]
        assert row.ours == pytest.approx(expected[metric], abs=1e-6)
        assert row.ours > 0.1
        known = [one.figures.get(metric) for one in published(name) if one.model == "ease"]
        assert row.published == (known[0] if known else None)
    before = {file: file.stat().st_mtime_ns for file in (out / "runs" / "runs").iterdir()}
    kept = prepared(small(name), None, out)  # needs no raw files
    again = reproduce(small(name), kept, [EASE], out, seeds=[0], options=RunOptions(HERE))
    assert again is not None
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize("name", RAW)
def test_a_vae_with_pia_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    raw, _ = write_raw(name, tmp_path)
    split = prepared(small(name), raw, tmp_path / "out")
    metric = metrics_of(name)[-1]
    settings = {
        "model": {"hidden_dims": [8], "latent_dim": 4},
        "training": {"epochs": 3, "batch_size": 10, "learning_rate": 0.01, "metric": metric},
    }
    vae = VaeContestant(name="multi-vae+pia", experiment=experiment("multi-vae+pia", settings))
    options = RunOptions(HERE)
    found = reproduce(small(name), split, [vae], tmp_path / "out", seeds=[0], options=options)
    assert found is not None
    trained = train(split.train, split.validation, vae.experiment, context=HERE)
    expected = evaluate(trained.recommender, split.test, ks=CUTS)
    known = {row.model: row.figures for row in published(name)}.get("multi-vae+pia", {})
    ours = [row for row in rows(found) if row.model == "multi-vae+pia"]
    assert {row.metric for row in ours} == set(found.metrics)
    for row in ours:
        assert row.ours == pytest.approx(expected[row.metric], abs=1e-6)
        assert row.published == known.get(row.metric)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Where are the files of MovieLens 20M\?.*--raw"):
        prepared(small("ml-20m"), None, tmp_path / "out")
    raw, _ = write_raw("ml-1m", tmp_path)
    prepared(small("ml-1m"), raw, tmp_path / "out")
    with pytest.raises(DataError, match="is of ml-1m, not of ml-20m"):
        prepared(small("ml-20m"), raw, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(StorageError, match="something else"):
        prepared(small("ml-1m"), raw, tmp_path / "mine")


def test_invented_data_has_the_size_that_was_asked_for() -> None:
    data = invented(2000, 500, 60_000).check()
    assert (data.n_users, data.n_items) == (2000, 500)
    assert 0.75 * 60_000 < data.nnz <= 60_000 * 1.01
    counts = data.item_counts()
    assert counts[:50].sum() > 3 * counts[-50:].sum()


def sized(users: int, items: int, interactions: int) -> Sizes:
    return Sizes(users, items, interactions, 10**6, 10 * interactions, "1,2,5.0,3", 12, "here")


def cost_of(sizes: Sizes, model: VaeContestant | BaselineContestant, folder: Path) -> ModelCost:
    folder.mkdir()
    data = small("ml-20m")
    return Probe(data, sizes, folder, cuts=CUTS, context=HERE).cost(model)


def test_a_vaes_cost_scales_with_the_users(tmp_path: Path) -> None:
    """Sixteen times the users are sixteen times the steps, of nearly the same length."""
    settings = {"model": {"hidden_dims": [64], "latent_dim": 16}, "training": {"epochs": 7}}
    one = VaeContestant(name="multi-vae", experiment=experiment("multi-vae", settings))
    few = cost_of(sized(20_000, 800, 400_000), one, tmp_path / "few")
    many = cost_of(sized(320_000, 800, 6_400_000), one, tmp_path / "many")
    assert few.epoch_seconds is not None
    assert many.epoch_seconds is not None
    assert 4 < many.epoch_seconds / few.epoch_seconds < 64  # 16, but for a busy machine
    assert few.epochs == 7
    assert few.seconds > 7 * few.epoch_seconds
    assert many.peak_bytes > few.peak_bytes
    assert "steps of 500 users" in few.how


def test_a_baselines_memory_grows_with_its_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "ENOUGH_SECONDS", 0.0)  # three parts are enough
    ease = cost_of(sized(200_000, 40_000, 2_000_000), EASE, tmp_path / "e")
    assert ease.epochs is None
    assert ease.epoch_seconds is None
    assert ease.peak_bytes > 4 * 40_000**2  # W in float32
    assert ease.peak_bytes < 16 * 40_000**2
    assert "fitted to 1/16 of the data" in ease.how


def test_the_power_law_is_carried_on() -> None:
    assert probe._carried(0.25, 1.0, 0.5, 4.0) == pytest.approx(16.0)  # quadratic
    assert probe._carried(0.25, 1.0, 0.5, 1.1) == pytest.approx(2.2)  # at least in proportion
    assert probe._carried(0.25, 1.0, 0.5, 100.0) == pytest.approx(800.0)  # at most cubic
    assert probe._carried(0.25, -1.0, 0.5, 3.0) == pytest.approx(6.0)


def test_the_whole_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ENOUGH_SECONDS", 0.0)
    told: list[str] = []
    sizes = sized(30_000, 400, 300_000)
    cost = estimate(
        small("ml-20m"), sizes, [EASE], n_seeds=3, cuts=CUTS, context=HERE, given=False,
        tell=told.append,
    )  # fmt: skip
    assert told == ["measuring how fast files are read", "measuring ease"]
    assert cost.download_bytes == 10**6
    assert cost.unpacked_bytes == 3_000_000 * 10
    assert 300_000 * 16 < cost.split_bytes < 300_000 * 24
    assert cost.disk_bytes == cost.download_bytes + cost.unpacked_bytes + cost.split_bytes
    assert cost.seconds == pytest.approx(cost.read_seconds + 3 * cost.models[0].seconds)
    assert cost.read_seconds > 0
    assert cost.to_dict()["peak_bytes"] == cost.models[0].peak_bytes


def test_the_catalogue_is_untouched_by_scaling() -> None:
    assert small("msd").protocol.held_out_users == 30
    assert dataset("msd").protocol.held_out_users == 50_000
