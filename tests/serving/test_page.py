"""The pages in a real browser against a real server: every journey, by keyboard where one types.

The console must stay silent, and nothing be asked of anyone but the server.
"""

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from live_server import Server, serving
from served_models import FIRST, N_ITEMS, SCRIPT, save, small_community, small_model

from coterie.data.ids import IdMap
from coterie.experiment.assignment import arm_of
from coterie.experiment.settings import read_experiment
from coterie.models.baselines import METHODS
from coterie.recommender import Recommender
from coterie.serving import page as pages
from coterie.serving.guard import OPEN
from coterie.serving.page import PATHS

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
PHONE, DESK = 360, 1280
KEY = "a key that is long enough".replace(" ", "-")
ARMS = ("control", "pia", "<b>bold</b>")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed, so the pages were not looked at in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(model, community, tmp_path_factory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("page") / "store.db"
    with serving(model, f"sqlite:///{store}", "--community", community) as running:
        yield running
        assert [line for line in running.lines if "traceback" in line] == []


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """Open a page of a server; ``allowed`` are complaints that belong to the test."""
    complaints: list[str] = []
    shown: list[Any] = []
    allowed: list[str] = []

    def at(
        server: Server, path: str = "/", *, width: int = DESK, fakes: Any = (), **options: Any
    ) -> Any:
        base = f"http://127.0.0.1:{server.port}"
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(20_000)
        shown.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: asked.url.startswith(base + "/") or complaints.append(asked.url),
        )
        for pattern, answer in dict(fakes).items():
            page.route(pattern, faked(answer))
        page.goto(base + path)
        return page

    at.allowed = allowed  # type: ignore[attr-defined]
    yield at
    for page in shown:
        page.close()
    assert [text for text in complaints if not any(part in text for part in allowed)] == []


def faked(answer: Any) -> Any:
    return lambda route: route.fulfill(json=answer)


def titles(page) -> list[str]:
    """The list as it stands, once it has come."""
    page.wait_for_selector("#list:not([aria-busy]) > li")
    return page.locator("#list > li").evaluate_all(
        "all => all.map(e => e.querySelector('.title').firstChild.textContent)"
    )


def says(page, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).wait_for(state="attached")


def type_and_pick(page, text: str) -> None:
    page.focus("#search")
    page.keyboard.type(text)
    page.wait_for_selector("[role=option][aria-selected=true]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list:not([aria-busy])")


def expected(*items: int) -> list[str]:
    lists = small_model().recommend([list(items)], k=10)
    return lists.to_frame()["title"].to_list()


def fits(page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.locator("p, h1, h2, h3, button, input, select, figure, li").evaluate_all(
        """(all, width) => all.filter(e => !e.closest('.wide, .hidden, .skip') &&
           e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 90))""",
        width,
    )
    assert beyond == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_from_a_search_to_a_list_and_back(width, server, opened):
    page = opened(server, width=width)
    popular = titles(page)
    assert popular[:2] == [SCRIPT, "Title 1"]
    assert page.inner_text("#list-title") == "Most popular"
    page.focus("#search")
    page.keyboard.type("title 2")
    page.wait_for_selector("[role=option]")
    options = page.locator("[role=option]").evaluate_all("all => all.map(e => e.textContent)")
    assert options[:2] == ["Title 258 users", "Title 2040 users"]
    search = page.locator("#search")
    assert search.get_attribute("aria-expanded") == "true"
    for key, chosen in (("ArrowDown", 1), ("ArrowUp", 0), ("ArrowUp", len(options) - 1),
                        ("ArrowDown", 0), ("ArrowDown", 1)):  # fmt: skip
        page.keyboard.press(key)
        assert search.get_attribute("aria-activedescendant") == f"found-{chosen}"
        assert page.locator("[aria-selected=true]").count() == 1
    fits(page, width)
    page.keyboard.press("Enter")
    assert search.input_value() == ""
    says(page, "#list-title", "Recommended for you")
    assert titles(page) == expected(FIRST + 20)
    says(page, "#status", "Added Title 20. The list has 10 titles.")
    assert page.locator("#list .moved").count() > 0
    type_and_pick(page, "1007")
    page.wait_for_selector("#picks li:nth-child(2)")
    assert titles(page) == expected(FIRST + 20, FIRST + 7)
    fits(page, width)
    page.reload()
    assert titles(page) == expected(FIRST + 20, FIRST + 7), "picks outlive a reload"
    page.click("#picks li:first-child .remove")
    page.wait_for_selector("#picks li:nth-child(2)", state="detached")
    assert titles(page) == expected(FIRST + 7)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove Title 7"
    page.keyboard.press("Enter")
    says(page, "#list-title", "Most popular")
    assert titles(page) == popular
    assert page.evaluate("document.activeElement.id") == "search"


def test_escape_closes_and_empties_and_nothing_found_is_said(server, opened):
    page = opened(server)
    titles(page)
    page.focus("#search")
    page.keyboard.type("title")
    page.wait_for_selector("[role=option]")
    page.keyboard.press("Escape")
    assert page.is_hidden("#found")
    assert page.input_value("#search") == "title"
    assert page.get_attribute("#search", "aria-expanded") == "false"
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""
    page.keyboard.type("zzz")
    page.wait_for_selector("#found .empty")
    assert page.inner_text("#status") == "No title has these words."
    page.keyboard.press("Enter")
    assert page.locator("#picks li").count() == 0


def test_adding_from_the_list_keeps_the_place_of_the_keyboard(server, opened):
    page = opened(server)
    first = titles(page)[2]
    page.focus("#list li:nth-child(3) .add")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picks li")
    says(page, "#list-title", "Recommended for you")
    assert page.locator("#picks .title").inner_text() == first
    assert first not in titles(page)
    assert page.evaluate("document.activeElement.closest('#list li:nth-child(3)') !== null")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_why_and_similar(width, server, opened):
    page = opened(server, width=width)
    for text in ("1012", "1031", "1045"):
        type_and_pick(page, text)
    page.wait_for_selector("#picks li:nth-child(3)")
    best = titles(page)[0]
    why = page.locator("#list li:first-child button", has_text="Why")
    assert why.get_attribute("aria-label") == f"Why: {best}"
    why.click()
    page.wait_for_selector(".why")
    item = int(best.split()[1]) + FIRST
    facts = server.post(
        "/v1/explain", {"history": [1012, 1031, 1045], "items": [item], "k": 4}
    ).json()
    bars = page.locator(".bars li > span:first-child").all_inner_texts()
    assert bars == [row["history_title"] for row in facts["contributions"]]
    people = page.locator(".people strong").all_inner_texts()
    assert people == [f"User {row['user_id']}" for row in facts["neighbours"]]
    assert len(people) == 4
    assert facts["sentence"] in page.locator(".why details").text_content()
    fits(page, width)
    page.locator("#list li:first-child button", has_text="Similar").click()
    page.wait_for_selector(".similar")
    assert why.get_attribute("aria-expanded") == "false"
    like = small_model().similar_items([item], k=6).to_frame()["title"].to_list()
    shown = page.locator(".similar li > span:first-child").all_inner_texts()
    assert shown == like
    fits(page, width)
    page.locator("#list li:first-child button", has_text="Similar").click()
    assert page.locator("#list .panel").first.is_hidden()


def test_the_map_says_where_one_stands(server, opened):
    page = opened(server)
    page.wait_for_selector("#drawing path.dots")
    whole = server.get("/v1/map").json()
    assert page.get_attribute("#drawing path", "d").count("M") == len(whole["users"]) == 80
    assert page.locator("circle.you").count() == 0
    assert "Pick a title" in page.inner_text("#near")
    type_and_pick(page, "1012")
    page.wait_for_selector("circle.you")
    before = page.locator("circle.you").evaluate("e => [e.cx.baseVal.value, e.cy.baseVal.value]")
    here = server.post("/v1/map", {"history": [1012]}).json()
    near = min(
        (mark for mark in whole["landmarks"] if mark["item"] != 1012),
        key=lambda mark: (mark["x"] - here["x"]) ** 2 + (mark["y"] - here["y"]) ** 2,
    )
    assert near["title"] in page.get_attribute("#drawing svg", "aria-label")
    assert page.locator("rect.pick").count() == 1
    type_and_pick(page, "1031")
    page.wait_for_selector("rect.pick >> nth=1")
    after = page.locator("circle.you").evaluate("e => [e.cx.baseVal.value, e.cy.baseVal.value]")
    there = server.post("/v1/map", {"history": [1012, 1031]}).json()
    unit = (after[0] - before[0]) / (there["x"] - here["x"])
    assert unit > 0
    assert before[1] - after[1] == pytest.approx(unit * (there["y"] - here["y"]), rel=0.02)


def test_titles_are_text(server, opened):
    page = opened(server)
    type_and_pick(page, "script alert")
    page.wait_for_selector("#picks li")
    assert page.locator("#picks .title").inner_text() == SCRIPT
    page.click("#picks button >> nth=0")
    page.wait_for_selector(".similar")
    assert page.locator("script").count() == 1, "ours"
    page.wait_for_selector("rect.pick")
    assert page.locator("rect.pick title").text_content() == SCRIPT


def test_without_a_community_it_says_how_to_get_one(model, tmp_path, opened):
    with serving(model, f"sqlite:///{tmp_path}/store.db") as server:
        page = opened(server)
        page.wait_for_selector("#no-map")
        assert "coterie serve MODEL --community DATA" in page.inner_text("#no-map")
        type_and_pick(page, "1012")
        assert titles(page) == expected(FIRST + 12)
        assert page.locator("button", has_text="Why").count() == 0
        assert page.locator("#drawing svg").count() == 0


def test_a_baseline_explains_without_a_map(tmp_path, community, opened):
    config = METHODS["item-knn"].config.read({"neighbours": 20})
    folder = Recommender.fit(config, small_community()).save(tmp_path / "model")
    flags = ("--community", community)
    with serving(folder, f"sqlite:///{tmp_path}/store.db", *flags) as server:
        page = opened(server)
        page.wait_for_selector("#no-map")
        assert "no latent space" in page.inner_text("#no-map")
        type_and_pick(page, "1012")
        page.wait_for_selector("#picks li")
        titles(page)
        page.locator("#list button", has_text="Why").first.click()
        page.wait_for_selector(".why .bars li")
        assert page.locator(".people").count() == 0


def test_ids_that_numbers_cannot_hold(tmp_path, opened):
    ids = IdMap(np.arange(N_ITEMS) + 2**60)
    folder = small_model(ids=ids).save(tmp_path / "model")
    with serving(folder, f"sqlite:///{tmp_path}/store.db") as server:
        page = opened(server)
        type_and_pick(page, "title 12")
        page.wait_for_selector("#picks li")
        assert titles(page) == expected(FIRST + 12)
        page.click("#picks button >> nth=0")
        page.wait_for_selector(".similar li")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_key_is_asked_for_kept_in_the_tab_and_forgotten(width, model, tmp_path, opened):
    opened.allowed.append("401 (Unauthorized)")
    with serving(model, f"sqlite:///{tmp_path}/store.db", COTERIE_API_KEYS=KEY) as server:
        assert server.get("/v1/about").status == 401
        page = opened(server, width=width)
        page.wait_for_selector("#key-input")
        assert page.is_hidden("#content")
        fits(page, width)
        assert page.evaluate("document.activeElement.id") == "key-input"
        for unsent in ("schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel", "two words", "   "):
            page.fill("#key-input", unsent)
            page.keyboard.press("Enter")
            page.wait_for_selector("#key-error:not([hidden])")
            assert "This is no key" in page.inner_text("#key-error")
            page.evaluate("document.getElementById('key-error').hidden = true")
        page.fill("#key-input", "")
        page.keyboard.type("wrong-key-of-some-length")
        page.keyboard.press("Enter")
        says(page, "#key-error:not([hidden])", "does not accept")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        assert titles(page)[1] == "Title 1"
        assert KEY not in page.content()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.click("text=Experiments")
        page.wait_for_selector("#experiments p")
        page.click("#forget")
        page.wait_for_selector("#key-input")
        assert page.evaluate("sessionStorage.length") == 0


def test_a_server_that_is_gone_is_said(model, tmp_path, opened):
    opened.allowed.append("Failed to load resource")
    with serving(model, f"sqlite:///{tmp_path}/store.db") as server:
        page = opened(server)
        titles(page)
        server.stop()
        page.click("#list .add >> nth=0")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.inner_text("#problem") == "The server does not answer. Is it running?"


def result(metric: str, arm: str, lift: float | None, half: float = 0.05) -> dict[str, Any]:
    ends = (None, None) if lift is None else (lift - half, lift + half)
    return {"metric": metric, "arm": arm, "lift": lift, "low": ends[0], "high": ends[1]}


def standing(*, begun: bool = True) -> dict[str, Any]:
    """An experiment of three arms, two metrics and five days, as the server tells it."""
    days = [
        {
            "date": f"2026-03-0{day}",
            "users": dict.fromkeys(ARMS, 100 * day),
            "results": [
                result(metric, arm, None if day == 1 else 0.1 / day, 0.3 / day)
                for metric in ("ctr_per_impression", "watch_seconds_per_user")
                for arm in ARMS[1:]
            ],
        }
        for day in range(1, 6)
    ]
    last = days[-1]["results"] if begun else []
    return {
        "name": "pia",
        "computed_at": "2026-03-05T12:00:00Z",
        "arms": [
            {"name": arm, "share": 1 / 3, "users": 500 if begun else None, "clicks": 70,
             "impressions": 10_000, "model": "default", "version": "abc"}
            for arm in ARMS
        ],
        "sample_ratio_mismatch": {
            "p_value": 0.4,
            "warning": None if begun else "Shares not as planned.",
        },
        "results": [
            {**one, "control_mean": 0.1, "mean": 0.12, "p_value": 0.00001,
             "verdict": "better", "sentence": f"{one['arm']} is better on {one['metric']}."}
            for one in last
        ],
        "days": days if begun else [],
    }  # fmt: skip


LISTED = {
    "experiments": [
        {"name": "pia", "start": "2026-03-01T00:00:00Z", "end": "2126-03-29T00:00:00Z",
         "running": True, "exposed": 0.5, "primary": "ctr_per_impression",
         "arms": [{"name": arm, "share": 1 / 3, "model": "default", "version": "abc"}
                  for arm in ARMS]}
    ]
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_experiments_as_pictures_and_tables(width, scheme, server, opened):
    fakes = {"**/v1/experiments": LISTED, "**/v1/experiments/pia": standing()}
    page = opened(server, "/experiments", width=width, fakes=fakes, color_scheme=scheme)
    page.wait_for_selector(".plot svg >> nth=1")
    fits(page, width)
    assert page.inner_text(".badge") == "Running"
    assert "<b>bold</b>" in page.inner_text(".experiment")
    assert page.locator(".experiment b").count() == 0
    cells = page.locator("table >> nth=1").locator("tbody tr").all_inner_texts()
    assert re.split(r"\s*\t\s*", cells[0]) == [
        "ctr_per_impression", "pia", "0.1000", "0.1200", "+2.00%", "−4.00% to +8.00%", "< 0.0001",
    ]  # fmt: skip
    assert page.locator(".plot >> nth=0").locator("circle").count() == 4
    over_time = page.locator(".plot >> nth=1")
    assert over_time.locator(".band").count() == 2
    page.click("text=The same numbers as a table")
    rows = page.locator("details[open] tbody tr")
    assert rows.count() == 10
    assert rows.nth(0).inner_text().split("\t") == ["2026-03-01", "pia", "100", "–", "–"]
    assert rows.nth(8).inner_text().split("\t")[3:] == ["+2.00%", "−4.00% to +8.00%"]
    page.select_option("select", "watch_seconds_per_user")
    page.wait_for_selector("svg[aria-label^='Lift of watch_seconds_per_user by day']")
    fits(page, width)
    check_contrast(page)


def test_an_experiment_of_which_nothing_is_known_yet(server, opened):
    fakes = {"**/v1/experiments": LISTED, "**/v1/experiments/pia": standing(begun=False)}
    page = opened(server, "/experiments", fakes=fakes)
    page.wait_for_selector(".experiment .warning")
    assert "not as planned" in page.inner_text(".experiment .warning")
    text = page.inner_text(".experiment")
    assert "Nothing to compare yet." in text
    assert "No day has enough users yet." in text
    page.click("#refresh")
    says(page, "#status", "The figures are fresh.")


def test_experiments_are_asked_for_one_after_another(server, opened):
    """The server lets one run and few wait."""
    names = [f"pia-{place}" for place in range(7)]
    waiting: list[Any] = []
    page = opened(server)
    page.route(
        "**/v1/experiments",
        faked({"experiments": [{**LISTED["experiments"][0], "name": name} for name in names]}),
    )
    page.route("**/v1/experiments/*", lambda route: waiting.append(route))
    page.click("text=Experiments")
    for done, name in enumerate(names):
        while not waiting:
            page.wait_for_timeout(20)
        page.click("#refresh")  # asks for nothing twice
        page.wait_for_timeout(100)
        (asked,) = waiting
        assert asked.request.url.endswith(f"/v1/experiments/{name}")
        assert page.locator(".experiment").count() == done
        waiting.clear()
        asked.fulfill(json={**standing(), "name": name})
    says(page, "#status", "The figures are fresh.")
    headings = page.locator("h2").all_inner_texts()
    assert [text.removesuffix("Running").strip() for text in headings if "pia" in text] == names


def test_experiments_as_the_server_tells_them(model, tmp_path, opened):
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    file = tmp_path / "pia.toml"
    file.write_text(
        f'name = "pia"\nstart = {start.isoformat()}\n'
        f"end = {(start + timedelta(days=4)).isoformat()}\nleast_users = 20\n"
        "[arms]\ncontrol = 0.5\ntreated = 0.5\n"
    )
    experiment = read_experiment(file)
    flags = ("--experiment", file, "--arm", f"treated={save(tmp_path / 'treated', 1)}")
    with serving(model, f"sqlite:///{tmp_path}/store.db", *flags) as server:
        page = opened(server, "/experiments")
        page.wait_for_selector(".experiment")
        assert "nobody has entered" in page.inner_text(".experiment")
        events = []
        for user in range(120):
            label = {"user": user, "experiment": "pia", "arm": arm_of(experiment, user)}
            time = (start + timedelta(hours=user % 40)).isoformat()
            events.append({"event_id": f"{user}-0", "kind": "impression", "time": time, **label})
            if user % 3 < (2 if label["arm"] == "treated" else 1):
                events.append({"event_id": f"{user}-1", "kind": "click", "time": time, **label})
        assert server.post("/v1/events", {"events": events}).status == 200
        answer = server.get("/v1/experiments/pia").json()
        while answer["arms"][0]["users"] == 0:  # the first one is kept for some seconds
            sleep(0.5)
            answer = server.get("/v1/experiments/pia").json()
        page.click("#refresh")
        page.wait_for_selector(".plot .band")
        assert page.locator(".experiment strong").all_inner_texts() == [
            one["sentence"] for one in answer["results"] if one["metric"] == "ctr_per_impression"
        ]
        rows = page.locator("table >> nth=0").locator("tbody tr").all_inner_texts()
        assert [re.split(r"\s*\t\s*", row)[:3] for row in rows] == [
            [arm["name"], "50%", str(arm["users"])] for arm in answer["arms"]
        ]
        page.click("text=The same numbers as a table")
        days = [day["date"] for day in answer["days"]]
        assert page.locator("details[open] tbody th").all_inner_texts() == days
        fits(page, DESK)


def test_without_experiments_it_says_how_to_begin_one(server, opened):
    page = opened(server, "/experiments")
    page.wait_for_selector("#experiments code")
    assert "--experiment FILE" in page.inner_text("#experiments")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme, server, opened):
    page = opened(server, color_scheme=scheme)
    type_and_pick(page, "1012")
    page.wait_for_selector("#picks li")
    titles(page)
    page.locator("#list button", has_text="Why").first.click()
    page.wait_for_selector(".why")
    page.focus("#search")
    page.keyboard.type("title")
    page.wait_for_selector("[role=option]")
    check_contrast(page)


def check_contrast(page) -> None:
    """WCAG AA of every text, 4.5 : 1."""
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&
             [...e.childNodes].some(c => c.nodeType === 3 && c.data.trim())).map(e => {
             let back = e;
             while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)')
               back = back.parentElement;
             const style = getComputedStyle(e);
             return [e instanceof SVGElement ? style.fill : style.color,
                     getComputedStyle(back ?? document.body).backgroundColor, e.outerHTML];
           })"""
    )
    assert len(pairs) > 20
    assert [html for first, second, html in pairs if contrast(first, second) < 4.5] == []


def contrast(first: str, second: str) -> float:
    lights = sorted(map(luminance, (first, second)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: str) -> float:
    channels = [int(part) / 255 for part in re.fullmatch(r"rgb\((.*)\)", color)[1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_keyboard_reaches_the_content_and_every_field_has_a_name(server, opened):
    page = opened(server, width=PHONE, reduced_motion="reduce")
    titles(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    nameless = page.locator("button, input, select, a").evaluate_all(
        """all => all.filter(e => !e.getAttribute('aria-label') && !e.textContent.trim() &&
                                  !(e.labels && e.labels.length)).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("getComputedStyle(document.querySelector('#list li')).animationName") == (
        "none"
    )


def test_files_are_kept_by_their_tag_and_may_do_nothing_else(server):
    for path in sorted(PATHS):
        answer = server.get(path)
        assert (answer.status, answer.headers["x-content-type-options"]) == (200, "nosniff")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        tag = answer.headers["etag"]
        for known in (tag, f'"x", W/{tag}'):
            again = server.get(path, **{"If-None-Match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert server.get(path, **{"If-None-Match": '"x"'}).status == 200
        assert server.ask("HEAD", path).headers["content-length"] == str(len(answer.body))
        assert server.post(path, {}).status == 405
    for path in ("/page/__init__.py", "/page/../guard.py", "/page/%2e%2e/guard.py", "/page/"):
        assert server.get(path).status == 404


def test_pages_are_open_and_hold_no_data(model, tmp_path):
    assert {"/", "/experiments", "/page/page.css", "/page/recommend.js"} < PATHS < OPEN
    with serving(model, f"sqlite:///{tmp_path}/store.db", COTERIE_API_KEYS=KEY) as server:
        for path in PATHS:
            answer = server.get(path)
            assert answer.status == 200
            assert b"Title 1" not in answer.body
        assert b'data-secured="yes"' in server.get("/").body
        for path in ("/page/none.js", "/page", "//", "/v1/items", "/v1/map", "/v1/about"):
            assert server.get(path).status == 401


def test_the_scripts_never_read_markup():
    folder = Path(pages.__file__).parent
    scripts = "".join(file.read_text() for file in folder.glob("*.js"))
    assert len(list(folder.glob("*.js"))) > 5
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http:",
    ):
        assert word not in scripts.replace("http://www.w3.org/2000/svg", "")
