"""The examples run."""

import runpy
from pathlib import Path

from coterie.data.synthetic import SyntheticConfig, synthetic

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart(tmp_path, monkeypatch, capsys):
    config = SyntheticConfig(n_users=200, n_items=100, n_communities=3, n_niches=4, mean_history=15)
    synthetic(config, 0).interactions.to_frame().write_csv(tmp_path / "ratings.csv")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"]("ratings.csv", 20)
    assert "item_id" in capsys.readouterr().out
    assert (tmp_path / "model" / "manifest.json").is_file()
