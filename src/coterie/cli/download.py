"""``coterie download``: a public data set, and what to do with it next."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.options import Json
from coterie.cli.output import Output, facts_table
from coterie.data.datasets import DATASETS, DataSet
from coterie.data.datasets import dataset as known_dataset

EXAMPLES = """\
Without a name, the data sets that are known. Read the publisher's terms before
use. Needs the extra: pip install 'coterie[download]'.

Examples:
  coterie download
  coterie download ml-1m --to downloads
"""

app = new_app("download", EXAMPLES)


@app.default
def download(
    name: Annotated[str | None, Parameter(help="The data set, for example ml-20m.")] = None,
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder for the files, in NAME/.")] = Path("downloads"),
    json: Json = False,
) -> None:
    """Fetch a public data set, resumed where it stopped, and checked."""
    output = Output(as_json=json)
    if name is None:
        known = {key: data.title for key, data in DATASETS.items()}
        output.result({"datasets": known}, facts_table("Public data sets", known))
        return
    data = known_dataset(name)
    output.note(f"{data.title}. {data.terms}")
    if data.checksum_note:
        output.note(data.checksum_note)
    path = data.fetch(to, show_progress=not json)
    steps = next_steps(data, path)
    output.result(
        {"name": name, "path": str(path), "next": steps},
        f"Downloaded: {path}\nAs the literature does ({data.protocol.source}):",
        *(f"  {step}" for step in steps),
    )


def next_steps(data: DataSet, path: Path) -> list[str]:
    """The commands that give the literature's split."""
    if data.is_pair:
        return [f"coterie split {path} --out {data.name}-split --protocol given"]
    users = data.protocol.held_out_users
    return [
        f"coterie prepare {path} --out {data.name} --dataset {data.name}",
        f"coterie split {data.name} --out {data.name}-split "
        f"--n-validation-users {users} --n-test-users {users}",
    ]
