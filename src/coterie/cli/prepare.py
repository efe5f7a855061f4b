"""``coterie prepare``: a log of interactions to a data set folder."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Overwrite, Section, Settings, accepts
from coterie.cli.output import Output, facts_table
from coterie.data.datasets import dataset as known_dataset
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.readers import read_interactions
from coterie.files import free_folder

EXAMPLES = """\
SOURCE is one of
  text             CSV, TSV, '::' separated, RecBole .inter; plain, .gz or .zst
  tables           Parquet (a file or a folder of parts), Arrow, CSR .npz
  public data      MovieLens, Netflix Prize, Taste Profile, and Gowalla in the
                   LightGCN form: the folder or the archive as downloaded
  a data set       a folder of this command, to filter it further

Examples:
  coterie prepare ratings.csv --out data --threshold 4 --min-user-items 5
  coterie prepare ml-20m.zip --out ml-20m --dataset ml-20m
  coterie prepare plays.parquet --out data --user listener --item track
  coterie prepare log.tsv.gz --out data --since 2024-01-01 --items titles.csv
  coterie prepare ratings.csv --out data --config run.toml --json
"""

SECTION = Section(
    PrepareOptions,
    "Options",
    at="prepare",
    flags={"positive_threshold": ("--threshold", "--positive-threshold")},
    types={"since": int | str | None, "until": int | str | None},
)

app = new_app("prepare", EXAMPLES)


@app.default
@accepts(SECTION)
def prepare(
    source: Annotated[Path, Parameter(help="What to read.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")],
    settings: Settings,
    items: Annotated[Path | None, Parameter(help="Table about the items: id, title, …")] = None,
    dataset: Annotated[
        str | None,
        Parameter(help="Take a public data set's usual options, for example ml-20m."),
    ] = None,
    name: Annotated[str | None, Parameter(help="What to call the data in reports.")] = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn a log of interactions into a data set folder."""
    output = Output(as_json=json)
    usual = None if dataset is None else known_dataset(dataset).options.model_dump()
    options = settings.read(PrepareOptions, usual)
    free_folder(out, overwrite=overwrite)
    with output.stages() as stage:
        data = read_interactions(
            source, options=options, items=items, name=name or dataset, progress=stage
        )
        stage("writing")
        data.save(out, overwrite=overwrite)
    facts = data_facts(data)
    output.result({"data": str(out), **facts}, facts_table(f"{data.name}: {out}", facts))


def data_facts(data: Interactions) -> dict[str, object]:
    """Sizes, density, and what the filters removed."""
    cells = data.n_users * data.n_items
    return {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": data.nnz,
        "density": data.nnz / cells if cells else None,
        "items_per_user": data.nnz / data.n_users if data.n_users else None,
        "ratings": data.values is not None,
        "timestamps": data.timestamps is not None,
        "item_columns": [] if data.items is None else data.items.columns,
        "filters": data.source.get("filters", {}),
    }
