"""Diagnoses as a page to read, and as figures for papers."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from coterie.errors import ConfigError
from coterie.mechanisms.collaboration import Collaboration
from coterie.mechanisms.compared import HOW, differences, effects_of_alignment
from coterie.mechanisms.measurement import Measurement
from coterie.mechanisms.numbers import number, with_errors
from coterie.mechanisms.page import (
    Image,
    Panel,
    Point,
    Section,
    Table,
    write_page,
)
from coterie.mechanisms.style import save_figure, share_limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from coterie.mechanisms.diagnose import Diagnosis

TITLE = "Who helps whom, and why"
FORMATS = ("png", "svg", "pdf")
SHORT = 12  # rows per model, up to which the page shows the measured values themselves
NARROW = 10  # columns, up to which it does

RELATED = {
    "shared": "both like",
    "of_user": "one likes",
    "of_other": "the other likes",
    "input_distance": "differing items",
    "taste": "shared taste",
    "cosine": "cosine of gradients",
}


def write_report(
    diagnoses: Mapping[str, "Diagnosis"],
    path: Path | str,
    *,
    latent_map: Measurement | None = None,
    title: str = TITLE,
) -> Path:
    """Write one HTML file that needs no network; it appears whole or not at all.

    Parameters
    ----------
    diagnoses
        By the models' names, in the order in which they stand side by side.
    path
        The file; what was there is replaced.
    latent_map
        One measurement over all of these models, shown last.
    title
        Of the page.

    Raises
    ------
    ConfigError
        There is no diagnosis.
    MissingExtraError
        Jinja2 or matplotlib is not installed.
    StorageError
        The file cannot be written.
    """
    return write_page(path, title, sections(diagnoses, latent_map), lead=[_lead(diagnoses)])


def sections(
    diagnoses: Mapping[str, "Diagnosis"], latent_map: Measurement | None = None
) -> list[Section]:
    """The report's parts: the summary, one per measure, and how the figures came about."""
    if not diagnoses:
        raise ConfigError("A report needs at least one diagnosis, got none.")
    names = measured(diagnoses)
    shared = [] if latent_map is None else [_shared_section(latent_map, list(diagnoses))]
    return [
        _summary(diagnoses, names, latent_map),
        *(_section(name, diagnoses) for name in names),
        *shared,
        _about(diagnoses),
    ]


def measured(diagnoses: Mapping[str, "Diagnosis"]) -> list[str]:
    """Names of the measures that at least one model has, in the order of the diagnosis."""
    order = dict.fromkeys(name for one in diagnoses.values() for name in one.order)
    return [name for name in order if any(name in one.measurements for one in diagnoses.values())]


def write_figures(
    diagnoses: Mapping[str, "Diagnosis"],
    folder: Path | str,
    *,
    formats: Sequence[str] = ("png", "svg"),
    latent_map: Measurement | None = None,
) -> list[Path]:
    """Write ``MEASURE-MODEL.FORMAT`` for each plot; returns the files.

    What is the same for all models, as it depends on the data only, is ``MEASURE.FORMAT``.

    Parameters
    ----------
    diagnoses
        By the models' names; in the files' names, what is neither letter nor digit is a hyphen.
    folder
        Made if it is absent; files of the same names are replaced.
    formats
        Any of ``"png"`` (200 dots per inch), ``"svg"`` and ``"pdf"``.
    latent_map
        One measurement over all models.

    Raises
    ------
    ConfigError
        A format is unknown.
    StorageError
        A file cannot be written.
    """
    if unknown := [kind for kind in formats if kind not in FORMATS]:
        raise ConfigError(f"Figures can be {', '.join(FORMATS)}; got {unknown[0]!r}.")
    written = []
    for stem, figure in _plots(diagnoses, latent_map):
        written += [save_figure(figure, Path(folder) / f"{stem}.{kind}") for kind in formats]
    return written


def _plots(
    diagnoses: Mapping[str, "Diagnosis"], latent_map: Measurement | None
) -> Iterator[tuple[str, "Figure"]]:
    """Each plot with the stem of its file; models whose names become equal are numbered."""
    slugs = _slugs(diagnoses)
    for name in measured(diagnoses):
        found = by_model(name, diagnoses)
        for model, figure in _drawn(found).items():
            yield f"{name}-{slugs[model]}" if model in slugs else name, figure
    if latent_map is not None:
        yield latent_map.name, latent_map.plot()


def _drawn(found: Mapping[str, Measurement]) -> dict[str, "Figure"]:
    """One measure's plots by model, with the same axes."""
    figures = {model: one.plot() for model, one in found.items()}
    share_limits(list(figures.values()))
    return figures


def _slugs(models: Iterable[str]) -> dict[str, str]:
    """Parts of files' names by model; what becomes equal is numbered."""
    taken: set[str] = set()
    slugs: dict[str, str] = {}
    models = list(models)
    for model in models:
        slug = plain = re.sub(r"[^\w.]+", "-", model).strip("-.") or "model"
        for again in range(2, len(models) + 2):
            if slug.casefold() not in taken:  # some file systems do not tell cases apart
                break
            slug = f"{plain}-{again}"
        taken.add(slug.casefold())
        slugs[model] = slug
    return slugs


def _lead(diagnoses: Mapping[str, "Diagnosis"]) -> str:
    first = next(iter(diagnoses.values()))
    users, items = first.data["users"], first.data["items"]
    several = f"{len(diagnoses)} models side by side: {', '.join(diagnoses)}. {HOW}"
    one = f"The model {next(iter(diagnoses))}."
    return (
        f"{several if len(diagnoses) > 1 else one} Measured on {users:,} users and {items:,} items "
        f"of {first.data['name']}. Every sentence speaks of the sample that was drawn."
    )


def _summary(
    diagnoses: Mapping[str, "Diagnosis"], names: list[str], latent_map: Measurement | None
) -> Section:
    panels = [_finding(name, diagnoses) for name in names]
    if latent_map is not None:
        point = Point(latent_map.sentence())
        warnings = tuple(latent_map.warnings())
        panels.append(Panel(latent_map.title, None, (point,), warnings, latent_map.name))
    return Section(
        "What was found", "summary", figures=tuple(panels), notes=not_measured(diagnoses)
    )


def not_measured(diagnoses: Mapping[str, "Diagnosis"]) -> tuple[str, ...]:
    """What models lack, and why: each reason once."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(name for one in diagnoses.values() for name in one.skipped):
        reasons = {m: [d.skipped[name]] for m, d in diagnoses.items() if name in d.skipped}
        for models, text in by_text(reasons):
            lacking.setdefault((models, text), []).append(name.replace("_", " "))
    return tuple(
        f"Not measured, {models}: {', '.join(names)}. {text}"
        for (models, text), names in lacking.items()
    )


def by_model(name: str, diagnoses: Mapping[str, "Diagnosis"]) -> dict[str, Measurement]:
    """One measure by model; once, as "every model", where it depends on the data only."""
    found = {
        model: diagnosis.measurements[name]
        for model, diagnosis in diagnoses.items()
        if name in diagnosis.measurements
    }
    first, *others = found.values()
    alike = all(other.to_dict() == first.to_dict() for other in others)
    if others and alike and len(found) == len(diagnoses):
        return {"every model": first}
    return found


def _finding(name: str, diagnoses: Mapping[str, "Diagnosis"]) -> Panel:
    """How the models differ in one measure; its sentence where there is nothing to compare."""
    alone = len(diagnoses) == 1
    found = by_model(name, diagnoses)
    if len(found) == 1:
        points = [Point(one.sentence(), "" if alone else model) for model, one in found.items()]
    else:
        points = [Point(text, model) for model, text in comparisons(name, diagnoses)]
    told = {model: tuple(one.warnings()) for model, one in found.items()}
    warnings = [text if alone else f"{who}: {text}" for who, text in by_text(told)]
    title = next(iter(found.values())).title
    return Panel(title, None, tuple(points), tuple(warnings), name)


def comparisons(name: str, diagnoses: Mapping[str, "Diagnosis"]) -> list[tuple[str, str]]:
    """Pairs of a model and how it differs from the first in one measure, as sentences."""
    found = by_model(name, diagnoses)
    told = differences(found)
    effects = effects_of_alignment(found, diagnoses)
    return [
        (model, " ".join(text for text in (told.get(model), effects.get(model)) if text))
        for model in found
        if model in told or model in effects
    ]


def _section(name: str, diagnoses: Mapping[str, "Diagnosis"]) -> Section:
    """One measure: what it means, the figures of all models, a panel per model, the method."""
    found = by_model(name, diagnoses)
    example = next(iter(found.values()))
    figures = {model: one.headlines() for model, one in found.items()}
    lacking = by_text(_skipped(name, diagnoses))
    # One model's sentence stands in the summary, where there is nothing to compare.
    sentences = {model: one.sentence() for model, one in found.items() if len(found) > 1}
    drawn = _drawn(found)
    return Section(
        example.title,
        name,
        (example.meaning,),
        (Table.by_model("Headline figures", figures),),
        tuple(
            _panel(model, one, drawn[model], sentences.get(model)) for model, one in found.items()
        ),
        tuple(_details(found)),
        (
            *(f"{who}: {text}" for who, text in lacking),
            f"How it was computed: {example.method}",
        ),
    )


def _details(found: Mapping[str, Measurement]) -> Iterator[Table]:
    """What was measured, of all models in one table, where it is short enough to read."""
    frames = [one.to_frame() for one in found.values()]
    columns = with_errors(dict.fromkeys(frames[0].columns))
    if len(columns) <= NARROW and all(0 < len(frame) <= SHORT for frame in frames):
        yield Table.of_frame("In detail", _joined(found, frames))
    for model, one in found.items():
        if isinstance(one, Collaboration) and one.related:
            of_model = f"{model}: " if len(found) > 1 else ""
            caption = f"{of_model}Far-but-related pairs with the most shared taste"
            yield Table.of_frame(
                caption, one.related_frame().select(RELATED.keys()).rename(RELATED)
            )


def _joined(models: Iterable[str], frames: list[pl.DataFrame]) -> pl.DataFrame:
    """One below the other, with a column that names the model if there are several."""
    if len(frames) > 1:
        named = zip(models, frames, strict=True)
        frames = [frame.select(pl.lit(model).alias("model"), pl.all()) for model, frame in named]
    return pl.concat(frames, how="diagonal_relaxed")


def _shared_section(found: Measurement, models: Sequence[str]) -> Section:
    """What was measured of all models at once; ``name/model`` is one model's figure."""
    figures = found.figures()
    every = {name: value for name, value in figures.items() if "/" not in name}
    own = {
        model: {
            n.removesuffix(f"/{model}"): v for n, v in figures.items() if n.endswith(f"/{model}")
        }
        for model in models
    }
    table = Table.by_model("Headline figures", {model: own[model] | every for model in models})
    return Section(
        found.title,
        found.name,
        (found.meaning,),
        (table,) if table.rows else (),
        (_panel("All models, one projection", found, found.plot()),),
        notes=(f"How it was computed: {found.method}",),
    )


def _panel(
    heading: str, found: Measurement, figure: "Figure", sentence: str | None = None
) -> Panel:
    image = Image.of(figure, f"Plot for {heading}: {found.title}.")
    points = [Point(sentence)] if sentence else []
    return Panel(heading, image, (*points, Point(f"{found.sample}.", "Sample")))


def _about(diagnoses: Mapping[str, "Diagnosis"]) -> Section:
    first = next(iter(diagnoses.values()))
    seconds = {model: one.seconds for model, one in diagnoses.items()}
    data = Table(
        "The data", ("fact", "value"), tuple((k, number(v)) for k, v in first.data.items())
    )
    return Section(
        "How the figures came about",
        "about",
        (
            "Samples are drawn from the seed and sized by a nominal budget, not by the clock, so "
            "that they are the same on every machine. Models of one size are measured on the same "
            f"users (seed {first.seed}); where input was masked, the probability to keep an item "
            f"was ρ = {first.keep_probability:g} for every model.",
        ),
        (data, Table.by_model("Seconds taken by each measure", seconds, of="measure")),
    )


def _skipped(name: str, diagnoses: Mapping[str, "Diagnosis"]) -> dict[str, tuple[str, ...]]:
    """Why models lack this measure."""
    return {
        model: (f"Not measured: {diagnosis.skipped[name]}",)
        for model, diagnosis in diagnoses.items()
        if name in diagnosis.skipped
    }


def by_text(texts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs of models (by commas) and text, each text once."""
    distinct = dict.fromkeys(text for each in texts.values() for text in each)
    return [(", ".join(m for m, each in texts.items() if text in each), text) for text in distinct]
