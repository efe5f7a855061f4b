"""One self-contained HTML page: sections of text, tables and plots. It knows nothing of models."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from coterie.errors import ConfigError, MissingExtraError
from coterie.files import atomic_file
from coterie.mechanisms.numbers import with_errors
from coterie.mechanisms.style import SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_SVG = 300_000  # bytes; plots of very many marks are smaller as PNG
PIXELS_PER_INCH = 96  # of CSS
PNG_DPI = 192  # sharp on dense screens
BROAD = 600  # pixels of a plot that a phone does not show as a whole
PHONE_COLUMNS = 2  # of a table, that a phone shows as a whole
NARROW = 340  # pixels of a panel of text
LEGIBLE = 0.62  # of its natural width, below which a plot's letters are too small


@dataclass(frozen=True)
class Image:
    """A picture within the page.

    Parameters
    ----------
    source
        A ``data:`` address.
    alt
        What it shows, for those who do not see it.
    width, height
        Natural size in CSS pixels.
    """

    source: str
    alt: str
    width: int
    height: int

    @property
    def broad(self) -> bool:
        """Whether a phone shows a part of it at a time."""
        return self.width > BROAD

    @classmethod
    def of(cls, figure: "Figure", alt: str) -> "Image":
        """Draw a figure: SVG with letters as outlines (alike everywhere), or PNG if smaller."""
        from matplotlib import rc_context

        width, height = (round(inches * PIXELS_PER_INCH) for inches in figure.get_size_inches())
        drawn, kind = io.BytesIO(), "svg+xml"
        with rc_context({**SETTINGS, "svg.fonttype": "path"}):
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            if drawn.tell() > LARGEST_SVG:
                drawn, kind = io.BytesIO(), "png"
                figure.savefig(drawn, format="png", dpi=PNG_DPI)
        encoded = base64.b64encode(drawn.getvalue()).decode()
        return cls(f"data:image/{kind};base64,{encoded}", alt, width, height)


@dataclass(frozen=True)
class Point:
    """A sentence, and what or whom it is about."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One of several things side by side: a plot, sentences, warnings.

    ``link`` is the anchor of the section that tells more, if the heading leads there.
    """

    heading: str
    image: Image | None = None
    points: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Cells as text; each row's first cell is its heading.

    ``prose`` are the places of columns with text to read, which is set to the left and broken.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: frozenset[int] = frozenset()

    @property
    def broad(self) -> bool:
        """Whether a phone may show a part of it at a time."""
        return len(self.columns) > PHONE_COLUMNS

    @classmethod
    def by_model(
        cls, caption: str, figures: Mapping[str, Mapping[str, float]], *, of: str = "figure"
    ) -> "Table":
        """One row per figure and one column per model; ``–`` where a model lacks it."""
        cells = {model: with_errors(values) for model, values in figures.items()}
        names = dict.fromkeys(name for values in cells.values() for name in values)
        rows = ((name, *(each.get(name, "–") for each in cells.values())) for name in names)
        return cls(caption, (of, *figures), tuple(rows))

    @classmethod
    def of_frame(cls, caption: str, frame: pl.DataFrame, *, most: int = 100) -> "Table":
        """The first rows of a frame; the caption says if there are more."""
        if len(frame) > most:
            caption = f"{caption} (the first {most} of {len(frame):,} rows)"
        rows = [with_errors(row) for row in frame.head(most).iter_rows(named=True)]
        columns = list(with_errors(dict.fromkeys(frame.columns)))
        text = [
            name.replace("_", " ") for name, dtype in frame.schema.items() if dtype == pl.String
        ]
        prose = frozenset(at for at, name in enumerate(columns) if name in text)
        return cls(caption, tuple(columns), tuple(tuple(row.values()) for row in rows), prose)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Parameters
    ----------
    title
        The heading, which the table of contents lists.
    anchor
        A word for links to it, unique in the report.
    paragraphs
        Text before everything else.
    tables, figures
        Tables, then panels side by side as far as the plots stay legible.
    more
        Tables after the panels.
    notes
        Text at the end in smaller print: method, sample, what was left out.
    """

    title: str
    anchor: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Panel, ...] = ()
    more: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def least_width(self) -> int:
        """Pixels that a panel needs; with less room, panels stand one below the other."""
        widths = [LEGIBLE * panel.image.width for panel in self.figures if panel.image]
        return round(max(widths, default=NARROW))

    @property
    def plotted(self) -> bool:
        """Whether a panel has a plot; panels of text alone are set in columns."""
        return any(panel.image for panel in self.figures)


def render(title: str, sections: Sequence[Section], *, lead: Sequence[str] = ()) -> str:
    """The HTML page; every text in it is escaped.

    Parameters
    ----------
    title
        Of the page.
    sections
        In reading order.
    lead
        Paragraphs below the title.

    Raises
    ------
    ConfigError
        Two sections have one anchor.
    MissingExtraError
        Jinja2 is not installed.
    """
    anchors = [section.anchor for section in sections]
    if repeated := sorted({anchor for anchor in anchors if anchors.count(anchor) > 1}):
        raise ConfigError(f"Sections need anchors of their own, got {repeated[0]!r} repeatedly.")
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(
            "Reports need Jinja2: pip install 'coterie[mechanisms]'."
        ) from error
    environment = Environment(
        loader=PackageLoader("coterie.mechanisms.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title, sections=sections, lead=lead, version=version("coterie")
    )


def write_page(
    path: Path | str, title: str, sections: Sequence[Section], *, lead: Sequence[str] = ()
) -> Path:
    """:func:`render` into a file, which appears whole or not at all and replaces what was there."""
    page = render(title, sections, lead=lead)
    with atomic_file(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return Path(path)
