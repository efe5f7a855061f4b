"""The report's text, tables and files, with measurements made up for it."""

import base64
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise

import polars as pl
import pytest

from coterie.errors import ConfigError, StorageError
from coterie.mechanisms.measurement import SampleSize
from coterie.mechanisms.page import Image, Panel, Point, Section, Table, render
from coterie.mechanisms.report import by_text, sections, write_figures, write_report
from coterie.mechanisms.style import new_figure, share_limits
from mechanisms.fake_measurements import Fake, Map, diagnosis

EVIL = "<script>alert('x')</script> & \"co\""


class Outline(HTMLParser):
    """Tags with their attributes, and the text of headings, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self._level = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self._level = int(tag[1])
            self.headings.append((self._level, ""))

    def handle_data(self, data: str) -> None:
        if self._level:
            level, text = self.headings.pop()
            self.headings.append((level, text + data))

    def handle_endtag(self, tag: str) -> None:
        if re.fullmatch("h[1-6]", tag):
            self._level = 0

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    diagnoses = {
        "first": diagnosis(value=0.25, said="The first says 25 %."),
        EVIL: diagnosis(value=0.5, said=f"Said by {EVIL}", warned=("Beware of this.",)),
        "third": diagnosis(value=0.75, skipped="It has a point posterior; train another."),
    }
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write_report(diagnoses, path, latent_map=Map(said="The map."), title=EVIL) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


def test_names_and_sentences_are_escaped(page: str) -> None:
    outline = Outline(page)
    assert outline.all("script") == []
    assert "<script" not in page
    assert outline.headings[0] == (1, EVIL)
    assert (3, EVIL) in outline.headings
    assert any(image["alt"] and EVIL in image["alt"] for image in outline.all("img"))


def test_nothing_is_fetched(page: str) -> None:
    outline = Outline(page)
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:")), f"<{tag} {name}={value[:50]}>"
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_headings_descend_step_by_step_and_links_lead_somewhere(page: str) -> None:
    outline = Outline(page)
    levels = [level for level, _ in outline.headings]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in outline.all("a")]
    assert {f"#{name}" for name in ("summary", "fake", "wide", "latent_map", "about")} <= set(links)
    assert {str(link)[1:] for link in links} <= set(ids)
    assert outline.all("html") == [{"lang": "en"}]


def test_sentences_come_first_then_tables_plots_and_reasons(page: str) -> None:
    text = re.sub(r"<[^>]+>", "", page[page.index("<main") :])
    assert text.count("Beware of this.") == 2  # of either measure, in the summary
    assert text.count("The first says 25 %.") == 2  # of either measure, in its section
    assert text.index("no figure has a standard error") < text.index("The first says 25 %.")
    assert text.index("The map.") < text.index("Large values mean")  # of the first measure
    for part in (
        "Invented (Theorem 0).",
        "40 of 1,000 pairs of users.",
        "0.75",
        "12,345",
        "ρ = 0.5",
    ):
        assert part in text
    assert text.count("It has a point posterior; train another.") == 2  # summary, section
    outline = Outline(page)
    assert len(outline.all("img")) == 3 + 2 + 1
    assert all(image["alt"] and image["width"] and image["height"] for image in outline.all("img"))


def test_models_stand_side_by_side_in_one_table() -> None:
    made = sections({"a": diagnosis(value=1.5), "b": diagnosis(value=2.5, skipped="No.")})
    by_anchor = {section.anchor: section for section in made}
    assert list(by_anchor) == ["summary", "fake", "wide", "about"]
    (table,) = by_anchor["fake"].tables
    assert table.columns == ("figure", "a", "b")
    assert table.rows[0] == ("share invented", "1.5", "2.5")
    assert by_anchor["wide"].tables[0].columns == ("figure", "a")
    detail = by_anchor["fake"].more[0]
    assert detail.columns == ("model", "x")
    assert detail.rows == (("a", "1.5"), ("b", "2.5"))


def test_figures_of_the_shared_map_stand_by_model() -> None:
    made = sections({"first": diagnosis(), "third": diagnosis()}, Map())
    (table,) = made[-2].tables
    assert table.columns == ("figure", "first", "third")
    assert table.rows == (("kept", "0.25", "0.125"), ("expected", "0.5", "0.5"))


def test_what_depends_on_the_data_only_is_shown_once() -> None:
    class Same(Fake):
        def figures(self) -> dict[str, float]:
            return {"value": self.value}

    def one(value: float) -> object:
        made = diagnosis(skipped="No.")
        made.measurements["fake"] = Same(value=value)  # type: ignore[index]
        return made

    same = sections({"a": one(1.0), "b": one(1.0)})  # type: ignore[dict-item]
    assert [panel.heading for panel in same[1].figures] == ["every model"]
    differ = sections({"a": one(1.0), "b": one(2.0)})  # type: ignore[dict-item]
    assert [panel.heading for panel in differ[1].figures] == ["a", "b"]


def test_what_no_model_has_is_named_with_its_reason() -> None:
    gone = diagnosis(skipped="Too few users.")
    made = sections({"a": gone, "b": gone})
    assert made[0].notes == ("Not measured, a, b: wide. Too few users.",)
    assert "wide" not in [section.anchor for section in made]


def test_equal_texts_are_told_once() -> None:
    texts = {"a": ["x", "y"], "b": ["y"], "c": []}
    assert by_text(texts) == [("a", "x"), ("a, b", "y")]


def test_a_report_of_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="at least one diagnosis"):
        write_report({}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_leaves_the_old_one(tmp_path) -> None:
    class Broken(Fake):
        def plot(self):
            raise RuntimeError("no plot")

    path = tmp_path / "report.html"
    path.write_text("old")
    broken = diagnosis()
    broken.measurements["fake"] = Broken()  # type: ignore[index]
    with pytest.raises(RuntimeError, match="no plot"):
        write_report({"a": broken}, path)
    assert path.read_text() == "old"
    with pytest.raises(StorageError):
        write_report({"a": diagnosis()}, path / "below" / "report.html")


def test_the_same_diagnoses_give_the_same_page(tmp_path) -> None:
    pages = [
        write_report({"a": diagnosis()}, tmp_path / f"{at}.html").read_bytes() for at in range(2)
    ]
    assert pages[0] == pages[1]


def test_sections_of_others_can_be_rendered() -> None:
    panel = Panel("heading", points=(Point("said", "who"),), warnings=("careful",), link="mine")
    frame = pl.DataFrame({"k": ["a"] * 5, "ndcg": [0.5] * 5, "ndcg_se": [0.012] * 5})
    table = Table.of_frame("By setting", frame, most=3)
    assert table.caption == "By setting (the first 3 of 5 rows)"
    assert table.columns == ("k", "ndcg")
    assert table.rows == (("a", "0.50 ± 0.01"),) * 3
    section = Section("Mine", "mine", ("Prose.",), (table,), (panel,), notes=("Small print.",))
    page = render("Title", [section], lead=["Lead."])
    for text in ("Lead.", "Prose.", "By setting", "who:", "said", "careful", "Small print."):
        assert text in page
    with pytest.raises(ConfigError, match="'mine' repeatedly"):
        render("Title", [section, section])


def test_many_marks_become_a_bitmap() -> None:
    def drawn(marks: int) -> Image:
        figure, (axes,) = new_figure()
        axes.plot(range(marks), [at % 7 for at in range(marks)], "o")
        return Image.of(figure, "alt")

    few, many = drawn(10), drawn(20_000)
    assert few.source.startswith("data:image/svg+xml;base64,")
    svg = base64.b64decode(few.source.partition(",")[2])
    assert b"<text" not in svg  # letters are outlines: no font is needed
    assert many.source.startswith("data:image/png;base64,")
    assert len(many.source) < len(few.source) * 20
    assert (few.width, few.height) == (576, 365)


def test_figures_for_papers(tmp_path) -> None:
    diagnoses = {"a/b": diagnosis(), "A b": diagnosis(skipped="No.")}
    written = write_figures(
        diagnoses, tmp_path / "figures", formats=("png", "svg"), latent_map=Map()
    )
    stems = ["fake-a-b", "fake-A-b-2", "wide-a-b", "latent_map"]
    assert [file.name for file in written] == [f"{s}.{k}" for s in stems for k in ("png", "svg")]
    assert all(file.stat().st_size > 1000 for file in written)
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == sorted(
        file.name for file in written
    )
    with pytest.raises(ConfigError, match="png, svg, pdf; got 'bmp'"):
        write_figures(diagnoses, tmp_path / "none", formats=("bmp",))
    assert not (tmp_path / "none").exists()


def test_sample_sizes_read_well() -> None:
    fake = Fake(sample=SampleSize(7, 7, "users"))
    panel = sections({"a": diagnosis(sample=fake.sample)})[1].figures[0]
    assert panel.points == (Point("all 7 users.", "Sample"),), "the sentence is in the summary"


def test_compared_plots_have_the_same_axes_and_what_depends_on_data_only_one_file(tmp_path) -> None:
    low, high = (new_figure()[0] for _ in range(2))
    low.axes[0].plot([0, 1], [0, 1])
    high.axes[0].plot([5, 9], [0.5, 40])
    share_limits([low, high])
    for figure in (low, high):
        assert figure.axes[0].get_xlim()[0] < 0 < 9 < figure.axes[0].get_xlim()[1]
        assert figure.axes[0].get_ylim()[0] < 0 < 40 < figure.axes[0].get_ylim()[1]

    @dataclass(frozen=True, eq=False)
    class Same(Fake):
        def figures(self) -> dict[str, float]:
            return {"value": self.value}

    both = {name: diagnosis(skipped="No.") for name in "ab"}
    for one in both.values():
        one.measurements["fake"] = Same()  # type: ignore[index]
    assert [file.name for file in write_figures(both, tmp_path, formats=("svg",))] == ["fake.svg"]
