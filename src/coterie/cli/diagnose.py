"""``coterie diagnose``: what a trained model does with its users, beside other models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter
from pydantic import Field, PositiveFloat
from rich import box
from rich.markup import escape
from rich.table import Table

from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Overwrite, Section, Settings, accepts
from coterie.cli.output import Output
from coterie.cli.paths import (
    DATA_FORMAT,
    MODEL,
    SPLIT_FORMAT,
    format_of,
    model_folder,
    require_format,
)
from coterie.config import HIGHEST_SEED, Config
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import ConfigError, DataError, StorageError
from coterie.histories import fold_in, over
from coterie.mechanisms.compared import HOW
from coterie.mechanisms.diagnose import (
    KEEP_PROBABILITY,
    MAP_SHARE,
    SECONDS,
    Diagnosis,
    generator_for,
)
from coterie.mechanisms.diagnose import diagnose as measure
from coterie.mechanisms.latent_map import latent_map
from coterie.mechanisms.measurement import Budget, Measurement
from coterie.mechanisms.numbers import with_errors
from coterie.mechanisms.report import (
    by_model,
    by_text,
    comparisons,
    measured,
    not_measured,
    write_figures,
    write_report,
)
from coterie.models.vae import VAE
from coterie.recommender import Recommender

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. DATA is a
data set, or a split, of which the training users are measured. Models of one
size are measured on the same users, with masks of the same strength. Samples
are sized by the budget; the report says how large they were. --html and
--figures add a map of the latent space. Needs the extra:
pip install 'coterie[mechanisms]'.

Examples:
  coterie diagnose run split
  coterie diagnose clean split --compare multi-vae multi-vae-pia --html report.html
  coterie diagnose run data --seconds 10 --json > figures.json
  coterie diagnose run split --figures figures
"""


class DiagnoseOptions(Config):
    """How to measure."""

    seed: int = Field(
        0, ge=0, le=HIGHEST_SEED, description="Determines which users, pairs and masks are drawn."
    )
    seconds: PositiveFloat = Field(
        SECONDS, description="Nominal time per model, on two modest cores; sizes the samples."
    )
    memory: PositiveFloat = Field(
        1000.0, description="Working memory in MB, beyond model and data."
    )
    keep_probability: float = Field(
        KEEP_PROBABILITY, gt=0, lt=1, description="ρ of the masks drawn, the same for all models."
    )

    @property
    def budget(self) -> Budget:
        """Per model."""
        return Budget(self.seconds, self.memory * 1e6)


Others = Annotated[
    tuple[Path, ...],
    Parameter(
        help="Other models to measure on the same users.",
        consume_multiple=True,
        negative_iterable=(),
        show_default=False,
    ),
]

app = new_app("diagnose", EXAMPLES)


@app.default
@accepts(Section(DiagnoseOptions, "Options", at="diagnose"))
def diagnose(
    model: Annotated[Path, Parameter(help="The model.")],
    data: Annotated[Path, Parameter(help="The data set or split.")],
    /,
    *,
    settings: Settings,
    compare: Others = (),
    html: Annotated[Path | None, Parameter(help="Report to write, one file.")] = None,
    figures: Annotated[Path | None, Parameter(help="Folder for each plot, as PNG and SVG.")] = None,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Measure who helps whom in a trained model, and why."""
    output = Output(as_json=json)
    options = settings.read(DiagnoseOptions)
    _check_html(html, overwrite=overwrite)
    _check_figures(figures, overwrite=overwrite)
    folders = named_folders([model, *compare])
    recommenders = {name: Recommender.load(path, device="cpu") for name, path in folders.items()}
    user_items, what = _users(data)
    known, unknown = _over_the_models_items(user_items, recommenders)
    if len(unknown):
        output.note(
            f"The models do not know {len(unknown):,} of the data's items; these are left out."
        )
    space: Measurement | None = None
    files: list[Path] = []
    with output.stages() as tell:
        diagnoses = _measured(recommenders, known, options, tell)
        if html is not None or figures is not None:
            tell("map of the latent space")
            space = _map(recommenders, known, options, output)
        if html is not None:
            tell(f"writing {html}")
            write_report(diagnoses, html, latent_map=space)
        if figures is not None:
            tell(f"writing {figures}")
            files = write_figures(diagnoses, figures, latent_map=space)
    facts = {
        "data": {"path": str(data), "users": what, "unknown_items": len(unknown)},
        "models": {n: {"path": str(folders[n]), **d.to_dict()} for n, d in diagnoses.items()},
        "latent_map": None if space is None else space.to_dict(),
        "html": None if html is None else str(html),
        "figures": [str(file) for file in files],
    }
    title = f"Measured on the {what} of {escape(str(data))}:"
    written = _written(html, figures, len(files))
    output.result(facts, title, figures_table(diagnoses), *_findings(diagnoses, space), *written)


def _written(html: Path | None, figures: Path | None, n_files: int) -> list[str]:
    told = [] if html is None else [f"Written: {escape(str(html))}"]
    return (
        told if figures is None else [*told, f"Written: {n_files} files in {escape(str(figures))}"]
    )


def named_folders(paths: Sequence[Path]) -> dict[str, Path]:
    """The models' folders by short names: the run's, or the folder's; in full where two are equal.

    Raises
    ------
    ConfigError
        A model is given twice.
    """
    folders = {path: model_folder(path) for path in paths}
    if len({folder.resolve() for folder in folders.values()}) < len(paths):
        raise ConfigError(f"Each model can be given once, got {' '.join(map(str, paths))}.")
    short = {path: _short(folder) for path, folder in folders.items()}
    repeated = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {
        str(path) if short[path] in repeated else short[path]: folder
        for path, folder in folders.items()
    }


def _short(folder: Path) -> str:
    full = folder.resolve()
    return full.parent.name if full.name == MODEL else full.name


def _users(path: Path) -> tuple[Interactions, str]:
    """The users to measure, and what they are."""
    if format_of(path) == DATA_FORMAT:
        return Interactions.open(path, verify=True), "users"
    require_format(path, SPLIT_FORMAT)
    return Split.open(path, verify=True).train, "training users"


def _over_the_models_items(
    data: Interactions, recommenders: Mapping[str, Recommender]
) -> tuple[Interactions, pl.DataFrame]:
    """The histories over the models' items, and what had to be left out."""
    (first, recommender), *others = recommenders.items()
    for name, other in others:
        if other.item_ids != recommender.item_ids:
            raise ConfigError(
                f"The models {first} and {name} know different items, so that they cannot be "
                "compared; train both on one split."
            )
    folded = fold_in(data, recommender.item_ids)
    return over(data, recommender.item_ids), folded.unknown


def _measured(
    recommenders: Mapping[str, Recommender],
    user_items: Interactions,
    options: DiagnoseOptions,
    tell: Callable[[str], None],
) -> dict[str, Diagnosis]:
    return {
        name: measure(
            recommender,
            user_items,
            seed=options.seed,
            budget=options.budget,
            keep_probability=options.keep_probability,
            progress=lambda stage, name=name: tell(f"{name}: {stage}"),  # type: ignore[misc]
        )
        for name, recommender in recommenders.items()
    }


def _map(
    recommenders: Mapping[str, Recommender],
    user_items: Interactions,
    options: DiagnoseOptions,
    output: Output,
) -> Measurement | None:
    models = {
        name: recommender.model
        for name, recommender in recommenders.items()
        if isinstance(recommender.model, VAE)
    }
    if not models:
        output.note("Without a map of the latent space: no model has latent vectors.")
        return None
    try:
        return latent_map(
            models,
            user_items,
            generator=generator_for(options.seed, "latent_map"),
            budget=options.budget.share(MAP_SHARE * len(models)),
        )
    except DataError as error:
        output.note(f"Without a map of the latent space: {error}")
        return None


def _check_html(path: Path | None, *, overwrite: bool) -> None:
    if path is None:
        return
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"--html must end in .html, got {path}.")
    if path.is_dir():
        raise StorageError(f"{path} is a folder; --html names a file. Choose another path.")
    if path.exists() and not overwrite:
        raise StorageError(f"{path} exists already; choose another path, or --overwrite it.")


def _check_figures(path: Path | None, *, overwrite: bool) -> None:
    if path is None or not path.exists():
        return
    if not path.is_dir():
        raise StorageError(f"{path} is a file; --figures names a folder. Choose another path.")
    if any(path.iterdir()) and not overwrite:
        raise StorageError(
            f"{path} is not empty; choose another folder, or --overwrite the figures in it."
        )


def figures_table(diagnoses: Mapping[str, Diagnosis]) -> Table:
    """Headline figures, one column per model."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("figure", overflow="fold")
    for model in diagnoses:
        table.add_column(escape(model), justify="right", overflow="fold")
    for name in measured(diagnoses):
        figures = [found.headlines(name) for found in diagnoses.values()]
        cells = [with_errors(values) for values in figures]
        table.add_row(name.replace("_", " "), style="bold")
        for figure in dict.fromkeys(key for each in cells for key in each):
            row = (f"  {figure}", *(each.get(figure, "–") for each in cells))
            table.add_row(*map(escape, row))
        table.add_section()
    return table


def _findings(diagnoses: Mapping[str, Diagnosis], space: Measurement | None) -> Iterator[str]:
    """The summary sentences, measure by measure, with their warnings; then what was skipped."""
    for name in measured(diagnoses):
        found = by_model(name, diagnoses)
        yield f"[bold]{escape(next(iter(found.values())).title)}[/bold]"
        for model, measurement in found.items():
            yield f"  {escape(model)}: {escape(measurement.sentence())}"
        for model, text in comparisons(name, diagnoses):
            yield f"  [bold]Compared[/bold], {escape(model)}: {escape(text)}"
        warnings = {model: measurement.warnings() for model, measurement in found.items()}
        for models, text in by_text(warnings):
            yield f"  [yellow]Warning[/yellow], {escape(models)}: {escape(text)}"
        yield ""
    if space is not None:
        yield f"[bold]{escape(space.title)}[/bold]\n  {escape(space.sentence())}"
        yield from (f"  [yellow]Warning[/yellow]: {escape(text)}" for text in space.warnings())
        yield ""
    if len(diagnoses) > 1:
        yield HOW
    yield from map(escape, not_measured(diagnoses))
