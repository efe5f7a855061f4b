"""Plots and page: what they show is what the analysis says."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from made_up import crowd, experiment

from coterie.errors import MissingExtraError
from coterie.experiment import report
from coterie.experiment.analysis import analyze
from coterie.experiment.log import summarize
from coterie.experiment.plots import by_day, figures, lifts
from coterie.experiment.report import write_report
from coterie.experiment.verdict import sentence


@pytest.fixture(scope="module")
def analysis():
    one = experiment(
        guardrails=[{"metric": "ctr_per_user", "margin": 0.1}],
        surfaces=["home"],
        minimum_effect=0.1,
        end="2026-03-15T00:00:00Z",
    )
    return analyze(summarize(crowd(1500, lift=0.4, seed=1).lazy(), one), one)


def test_every_lift_with_both_intervals(analysis):
    (axes,) = lifts(analysis).axes
    shown = [r for r in analysis.results if r.verdict != "no data"]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        r.comparison.metric.name for r in shown
    ]
    lines = {tuple(map(float, line.get_xdata())) for line in axes.lines}
    low, high = axes.get_xlim()
    for result in shown:
        for interval in (result.comparison.anytime, result.comparison.once):
            assert (100 * interval.low, 100 * interval.high) in lines
        assert low < 100 * result.comparison.effect.lift < high
    assert (-10.0, -10.0) in lines  # the margin


def test_a_lift_by_day(analysis):
    (axes,) = by_day(analysis, "ctr_per_impression").axes
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 10]
    points = [p for p in analysis.curve if p.metric == "ctr_per_impression"]
    assert list(line.get_ydata()) == [100 * p.lift for p in points]
    assert axes.get_xlim() == (0.5, 14.5)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    last = points[-1].anytime
    assert 100 * last.low in band
    assert 100 * last.high in band


def test_days_without_bounds_reach_beyond_the_axes():
    one = experiment(minimum_effect=0.01)
    analysis = analyze(summarize(crowd(500, seed=1).lazy(), one), one)
    points = [p for p in analysis.curve if p.metric == "ctr_per_impression"]
    assert any(math.isinf(p.anytime.high) for p in points)
    (axes,) = by_day(analysis, "ctr_per_impression").axes
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() > axes.get_ylim()[1]


def test_primary_and_guardrails_are_watched(analysis):
    assert list(figures(analysis)) == ["lifts", "by_day_ctr_per_impression", "by_day_ctr_per_user"]


def test_the_page_says_every_verdict_and_loads_nothing(analysis, tmp_path):
    text = write_report(analysis, tmp_path / "r.html").read_text()
    plain = re.sub(r"\s+", " ", text.replace("&lt;", "<"))
    for result in analysis.results:
        assert re.sub(r"\s+", " ", sentence(result, analysis)) in plain
    assert not re.search(r"(src|href)=\"https?:", text)
    assert "SAMPLE RATIO" not in text


def test_the_page_begins_with_a_mismatch(tmp_path):
    one = experiment()
    frame = crowd(4000, keep=(1.0, 0.8), seed=2, days=2)
    text = write_report(analyze(summarize(frame.lazy(), one), one), tmp_path / "r.html").read_text()
    assert text.index("SAMPLE RATIO MISMATCH") < text.index("No verdict on")
    assert 'class="warning"' in text


def test_the_page_warns_of_users_in_unknown_arms(analysis, tmp_path):
    doubtful = replace(analysis, facts=replace(analysis.facts, unknown_arms={"typo": 2}))
    text = write_report(doubtful, tmp_path / "r.html").read_text()
    assert "&#39;typo&#39; 2) and left out" in text
    assert "Do not trust" not in text


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(report, "EXTRAS", {"no_such_module": "Nothing"})
    with pytest.raises(
        MissingExtraError, match=r"need Nothing: pip install 'coterie\[experiment\]'"
    ):
        report.require_extras()


def test_figures_are_not_loaded_unless_drawn():
    code = (
        "import sys, coterie.experiment.report, coterie.cli.experiment; "
        "sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
