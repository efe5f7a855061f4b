"""``coterie reproduce``: figures beside the published ones, the dry run, mistakes."""

import json

import pytest
from command_line import HERE

from coterie.cli.contestants import shortened
from coterie.cli.output import Output
from coterie.cli.reproduce import entrant
from coterie.reproduce.cost import Cost
from coterie.reproduce.probe import ModelCost
from raw_files import small, write_raw


@pytest.fixture
def scaled(monkeypatch):
    """The protocols scaled to small files."""
    monkeypatch.setattr("coterie.cli.reproduce.dataset", small)


def test_ease_beside_the_published_figures(scaled, coterie, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, _ = write_raw("ml-20m", tmp_path)
    words = ("reproduce", "ml-20m", "--models", "ease", "popularity", *HERE)
    ended = coterie(*words, "--raw", raw)
    assert ended.code == 0, ended.err
    assert "2 of 2 runs: popularity, seed 0: ndcg@100 0." in ended.err
    assert "0.420" in ended.out
    assert "VASP" in ended.out
    assert "Steck" in ended.out
    out = tmp_path / "reproduced" / "ml-20m"
    facts = json.loads((out / "results.json").read_text())
    row = next(r for r in facts["rows"] if (r["model"], r["metric"]) == ("ease", "ndcg@100"))
    assert row["difference"] == pytest.approx(row["ours"] - 0.420)
    assert "| ease |" in (out / "results.md").read_text()
    raw.unlink()
    again = coterie(*words, "--json")  # from the split that is kept
    assert again.json()["rows"] == facts["rows"]
    assert "runs:" not in again.err


def test_a_quick_look_keeps_the_settings_for_the_data():
    output = Output()
    ours = [entrant(name, "netflix") for name in ("recvae+pia", "ease")]
    vae, ease = shortened(ours, 8, output)
    assert vae.experiment.objective.gamma == 0.0035
    assert vae.experiment.training.epochs == 8
    assert vae.experiment.training.metric == "ndcg@100"
    assert ease.config().l2 == 1000.0
    assert shortened(ours, None, output) == tuple(ours)
    gowalla = [entrant("multi-vae", "gowalla")]  # whose learning rate is 0 after its 60 epochs
    assert shortened(gowalla, 80, output) == tuple(gowalla), "at most so many, not more"


def test_dry_run(scaled, coterie, tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.reproduce.probe.ENOUGH_SECONDS", 0.0)
    ended = coterie("reproduce", "ml-1m", "--models", "popularity", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    facts = ended.json()
    assert facts["models"][0]["name"] == "popularity"
    assert facts["download_bytes"] == 5_917_549
    assert facts["disk_bytes"] > facts["unpacked_bytes"] > 0
    assert facts["memory_free_bytes"] > 0


def test_dry_run_for_people(scaled, coterie, monkeypatch):
    models = (
        ModelCost("recvae", 95.0, 200, 19_000.0, 3 * 2**30, "8 steps"),
        ModelCost("ease", None, None, 60.0, 2**60, "fitted to 1/8 of the data"),
    )
    cost = Cost(10 * 2**20, 2**60, 2**20, 30.0, models, 2, "a table")
    monkeypatch.setattr("coterie.cli.reproduce.estimate", lambda *_, **__: cost)
    shown = coterie("reproduce", "ml-1m", "--models", "ease", "--dry-run").out
    for text in (
        "MovieLens 1M: what it costs here", "10 MiB", "≤ 200", "2 min", "5.3 h", "10.6 h, 2 seeds",
        "fitted to 1/8", "ease needs more memory than is free here",
        "not enough free disk",
    ):  # fmt: skip
        assert text in " ".join(shown.split()), text
    assert "recvae needs" not in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ml-2m",), "ml-20m"),
        (("ml-20m",), "Name them (--raw), or fetch them (--download)"),
        (("ml-20m", "--raw", "none.zip"), "none.zip"),
        (("ml-20m", "--raw", "x", "--download"), "choose one"),
        (("ml-20m", "--models", "eese"), "did you mean 'ease'"),
        (("ml-20m", "--models", "ease", "ease", "--raw", "ml-20m.zip"), "Two models are called"),
        (("ml-20m", "--seeds", "-1"), "--seeds"),
        (("ml-20m", "--raw", "ml-20m.zip", "--checkpoint-minutes", 1), "keep no checkpoints"),
    ],
)
def test_mistakes(words, expected, scaled, coterie, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raw("ml-20m", tmp_path)
    ended = coterie("reproduce", *words, "--out", tmp_path / "out", *HERE)
    assert ended.code == 2
    assert expected in ended.message()
    assert not (tmp_path / "out").exists()


def test_the_whole_protocol_needs_the_whole_data(coterie, tmp_path):
    raw, _ = write_raw("netflix", tmp_path)
    ended = coterie(
        "reproduce", "netflix", "--raw", raw, "--models", "ease", "--out", tmp_path / "o"
    )
    assert ended.code == 2
    assert "holds out 40000 + 40000 users" in ended.message()
