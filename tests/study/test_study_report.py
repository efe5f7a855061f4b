"""The report: self-contained, says every verdict, and holds the figures."""

import json
import re
from html import unescape

import matplotlib.figure
import pytest
from study_records import measured, plan, record

from coterie.study import plots
from coterie.study.findings import Records, decide
from coterie.study.folder import StudyFolder
from coterie.study.outcome import Study, tally
from coterie.study.report import markdown, write_results

FULL = {"rhos": [0.5, 1.0], "lambdas": [0.0, 1.0, 8.0], "ablation": True}
DATA = {"name": "invented <data>", "protocol": "strong-generalization", "split_per_seed": True}


@pytest.fixture(scope="module")
def study():
    the_plan = plan(**FULL)
    records = [
        record(
            key,
            seed,
            ndcg=0.3 + 0.01 * at + 0.001 * seed,
            measures=measured(drift=0.1 + 0.02 * at, share=0.2 + 0.03 * at + 0.01 * seed),
        )
        for at, key in enumerate(the_plan.keys)
        for seed in (0, 1, 2)
    ]
    return Study(the_plan, records, decide(records, the_plan), {"data": DATA})


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_results(study, folder, figures=folder / "figures")
    return folder


def test_page_needs_no_network_and_says_every_verdict(study, written):
    page = (written / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "invented &lt;data&gt;" in page
    for finding in study.findings:
        assert f"{finding.verdict.capitalize()}:</strong>" in page
        assert finding.claim in unescape(page)
    assert page.count("<img") == len(plots.figures(Records(study.records), study.plan))
    for word in ("nothing is selected on them", "p &lt; 0.05", "Clean input met none"):
        assert word in page


def test_summary_holds_the_same(study, written):
    text = (written / "summary.md").read_text()
    assert text == markdown(study)
    assert all(finding.sentence in text for finding in study.findings)
    assert "| masking + PIA | 0.3210 ±0.0010 |" in text
    assert "Information, in nats, is a lower bound" in text


def test_results(study, written):
    found = json.loads((written / "results.json").read_text())
    assert found["seeds"] == [0, 1, 2]
    assert [f["verdict"] for f in found["findings"]] == [f.verdict for f in study.findings]
    pia = found["settings"]["pia"]
    assert pia["figures"]["ndcg@100"]["mean"] == pytest.approx(0.321)
    assert pia["figures"]["ndcg@100"]["deviation"] == pytest.approx(0.001)
    assert pia["figures"]["drift"]["seeds"] == pytest.approx([0.14] * 3)
    assert pia["cohorts"]["5–10"]["mean"] == pytest.approx(0.321)


def test_figures_as_files(study, written):
    names = {file.name for file in (written / "figures").iterdir()}
    every = plots.figures(Records(study.records), study.plan)
    assert names == {f"{name}.{end}" for name in every for end in ("png", "svg")}


def test_a_study_without_sweeps_has_fewer_figures():
    the_plan = plan(betas=[])
    every = plots.figures(Records([record(key, 0) for key in the_plan.keys]), the_plan)
    assert set(every) == {"quality", "cohorts", "neighbourhoods", "collaboration"}


@pytest.mark.parametrize("measures", [{}, measured()])
def test_figures_of_one_seed_and_of_what_was_not_measured(measures):
    the_plan = plan(**FULL)
    table = Records([record(key, 0, measures=measures) for key in the_plan.keys])
    for draw in plots.figures(table, the_plan).values():
        assert isinstance(draw(), matplotlib.figure.Figure)


def test_only_whole_seeds_are_reported(study, tmp_path):
    folder = StudyFolder(tmp_path / "s")
    folder.claim({"data": DATA})
    for one in study.records:
        if (one.seed, one.key) != (1, "pia"):
            folder.save(one)
    assert Study.read(study.plan, folder).seeds == [0, 2]


def test_tally(study):
    assert sum(map(int, re.findall(r"\d+", tally(study.findings))[1:])) == len(study.findings)
