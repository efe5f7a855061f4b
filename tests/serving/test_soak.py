"""The soak of the benchmarks in its short form: reloads, a lost database, rude clients, at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "serving_soak.py"
pytestmark = pytest.mark.slow


def test_half_a_minute_in_which_everything_goes_wrong(postgres, tmp_path):
    """``postgres`` is not used: it skips where there is none; the soak starts one of its own."""
    out = tmp_path / "soak.json"
    command = [sys.executable, str(SOAK), "--minutes", "0.4", "--items", "500", "--median", "20"]
    command += ["--rate", "60", "--reload-seconds", "5", "--outages", "1", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), ended.stderr
    record = json.loads(out.read_text())
    bars = record["bars"]
    bars.pop("memory")  # half a minute says little about it
    assert all(bars.values()), record
    assert record["database"] == "postgresql"
    assert record["statuses"]["malformed"]["422"] > 0
    assert record["statuses"]["user"]["200"] > 0
    assert record["versions"]["served"] >= 2
