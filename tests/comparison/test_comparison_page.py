"""The page in a real browser: whole on a phone and on a desk, no network, names as text."""

import shutil
from html import unescape

import pytest
from comparison_runs import METRICS, comparison

from coterie.comparison.contestants import BaselineContestant, VaeContestant
from coterie.comparison.report import settings_text, write_results
from coterie.training.config import Experiment

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
LONG = "a-model-with-a-name-that-has-no-end-" * 2
GAINS = {"base": 0.0, LONG: 0.4, "<script>x</script> & $y_1$ 100%": 0.1}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_results(comparison(GAINS), tmp_path_factory.mktemp("page"))


def test_files(written):
    assert [path.name for path in written] == [
        "report.html",
        "table.md",
        "table.tex",
        "results.json",
    ]
    page = written[0].read_text()
    assert "<script" not in page
    found = comparison(GAINS)
    for name in GAINS:
        assert name in unescape(page)
        for metric in METRICS:
            figure = found.figure(name, metric)
            assert f"{figure.mean:.4f} ±{figure.deviation:.4f}" in page


def test_settings_as_text():
    changed = Experiment.read({"model": {"latent_dim": 7}, "training": {"epochs": 3}})
    for experiment, text in (
        (Experiment(), "the defaults"),
        (changed, "model.latent_dim = 7; training.epochs = 3"),
    ):
        assert settings_text(VaeContestant(name="a", experiment=experiment).settings()) == text
    ease = BaselineContestant(name="e", method="ease", options={"l2": 2.0})
    assert settings_text(ease.settings()) == "ease; l2 = 2.0"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed, so the page was not looked at in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(width, browser, written):
    complaints = []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("console", lambda message: complaints.append(message.text))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or complaints.append(request.url)
        ),
    )
    page.goto(written[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.locator("main p, main h2, main h3, .panel, header, nav").evaluate_all(
        "(all, width) => all.filter(e => e.getBoundingClientRect().right > width).length", width
    )
    assert beyond == 0
    assert page.locator("h1").inner_text() == "Models compared on invented & <data>"
    natural, drawn = page.evaluate("[document.images[0].naturalWidth, document.images[0].width]")
    assert 0.55 * natural <= drawn <= natural
    page.close()
    assert complaints == []
