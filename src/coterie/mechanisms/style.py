"""How figures look: one palette (Okabe–Ito, safe for the colour-blind), sizes, formats."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.errors import MissingExtraError
from coterie.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#222222",
)
COLLABORATION = {"local": BLUE, "global": VERMILION, "unrelated": "#999999"}
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
WIDTH, HEIGHT = 6.0, 3.8  # inches; with this font size legible at half size
SETTINGS: Any = {  # matplotlib types each key
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "coterie",  # the same figure gives the same file
    "svg.fonttype": "none",
}


def new_figure(
    columns: int = 1, rows: int = 1, *, width: float = WIDTH, height: float = HEIGHT
) -> tuple["Figure", list["Axes"]]:
    """A figure of ``rows`` × ``columns`` axes, in reading order; each of the given size in inches.

    It belongs to no window and no global state, so nothing has to be closed.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "Figures need matplotlib: pip install 'coterie[mechanisms]'."
        ) from error
    with rc_context(SETTINGS):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = [figure.add_subplot(rows, columns, at + 1) for at in range(rows * columns)]
    return figure, axes


def share_limits(figures: Sequence["Figure"]) -> None:
    """Give axes at the same place of each figure the same limits, so that plots compare.

    Figures with different numbers of axes, or scales, are left as they are.
    """
    if len({len(figure.axes) for figure in figures}) != 1:
        return
    for same in zip(*(figure.axes for figure in figures), strict=True):
        for way in ("x", "y"):
            if len({getattr(axes, f"get_{way}scale")() for axes in same}) == 1:
                ends = [end for axes in same for end in getattr(axes, f"get_{way}lim")()]
                for axes in same:
                    getattr(axes, f"set_{way}lim")(min(ends), max(ends))


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a PNG (200 dots per inch), SVG or PDF, by the ending; whole or not at all."""
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context(SETTINGS), atomic_file(path) as aside:
        figure.savefig(aside, format=kind, dpi=200, metadata=metadata)
    return path
