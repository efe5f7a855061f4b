"""The report in a real browser: no errors, no network, no sideways scrolling, keyboard, print."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.mechanisms.report import write_report
from mechanisms.fake_measurements import Map, diagnosis

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LONG = "a-model-with-a-name-that-has-no-end-" * 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed, so the page was not looked at in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    diagnoses = {
        "clean": diagnosis(value=0.2, warned=("Few pairs.",)),
        LONG: diagnosis(value=0.3, said="A sentence without spaces: " + "x" * 300),
        "<script>document.title = 'owned'</script>": diagnosis(value=0.4, skipped="No posterior."),
    }
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(diagnoses, path, latent_map=Map(), title="A <b>bold</b> report")


@pytest.fixture
def open_page(browser: Any, report: Path) -> Iterator[Any]:
    """Open the report at a width; the console must stay silent, and nothing be requested."""
    complaints: list[str] = []
    opened = []

    def at(width: int) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 844})
        opened.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or complaints.append(request.url)
            ),
        )
        page.goto(report.as_uri())
        return page

    yield at
    for page in opened:
        page.close()
    assert complaints == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_nothing_sticks_out(width: int, open_page: Any) -> None:
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.locator("main p, main h2, main h3, .panel, header, nav").evaluate_all(
        "(all, width) => all.filter(e => e.getBoundingClientRect().right > width).length", width
    )
    assert beyond == 0


def test_models_side_by_side_on_a_desk_and_stacked_on_a_phone(open_page: Any) -> None:
    tops = "[...document.querySelectorAll('#fake .panel')].map(e => e.getBoundingClientRect().top)"
    desk = open_page(1280).evaluate(tops)
    assert len(desk) == 3
    assert len(set(desk)) == 1
    phone = open_page(390).evaluate(tops)
    assert len(set(phone)) == 3


def test_every_plot_is_drawn_at_a_legible_size(open_page: Any) -> None:
    for width in (390, 1280):
        sizes = open_page(width).evaluate(
            "[...document.images].map("
            "i => [i.naturalWidth, i.clientWidth, Number(i.getAttribute('width'))])"
        )
        assert len(sizes) == 3 + 2 + 1
        for natural, drawn, stated in sizes:
            assert natural > 0
            assert 0.55 * stated <= drawn <= stated


def test_names_are_text(open_page: Any) -> None:
    page = open_page(1280)
    assert page.title() == "A <b>bold</b> report"
    assert page.locator("h1 b").count() == 0
    assert page.locator("script").count() == 0


def test_the_keyboard_reaches_the_content(open_page: Any) -> None:
    page = open_page(390)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    scrolled = page.locator(".plot, .wide").evaluate_all("all => all.every(e => e.tabIndex === 0)")
    assert scrolled


def test_text_has_enough_contrast(open_page: Any) -> None:
    page = open_page(1280)
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('p, h1, h2, h3, a, th, td, caption')].map(e => {
             let back = e;
             while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)')
               back = back.parentElement;
             return [getComputedStyle(e).color,
                     back ? getComputedStyle(back).backgroundColor : 'rgb(255, 255, 255)'];
           })"""
    )
    assert len(pairs) > 50
    assert min(contrast(*pair) for pair in pairs) >= 7  # WCAG AAA


def test_it_prints(open_page: Any) -> None:
    page = open_page(1280)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.pdf(format="A4").startswith(b"%PDF")


def contrast(first: str, second: str) -> float:
    """WCAG's ratio of two colours as ``rgb(r, g, b)``."""
    lights = sorted(map(luminance, (first, second)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color.strip("rgb()").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_measured_rightly() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)
