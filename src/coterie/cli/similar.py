"""``coterie similar``: the neighbours of items."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.ids import read_ids
from coterie.cli.options import Json
from coterie.cli.output import Output, frame_table, in_flags
from coterie.cli.paths import model_folder
from coterie.errors import DataError
from coterie.recommender import Recommender
from coterie.similarity import Source

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. Compared are
the anchors of item alignment (PIA) if the model keeps them, else a VAE's decoder
table, a factorisation's factors, or a linear baseline's weights. @FILE stands for
the ids in a file, one per line.

Examples:
  coterie similar run 318
  coterie similar run 318 527 -k 5 --source decoder
  coterie similar run @items.txt --json
"""

app = new_app("similar", EXAMPLES)


@app.default
def similar(
    model: Annotated[Path, Parameter(help="The model.")],
    items: Annotated[list[str], Parameter(help="Item ids, or @FILE.")],
    /,
    *,
    k: Annotated[int, Parameter(name=("-k", "--k"), help="How many for each.")] = 10,
    source: Annotated[Source, Parameter(help="What to compare.")] = "auto",
    strict: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Make unknown item ids an error."),
    ] = False,
    json: Json = False,
) -> None:
    """List the items most similar to given ones."""
    output = Output(as_json=json)
    ids = read_ids(items) or []
    recommender = Recommender.load(model_folder(model))
    with in_flags():
        found = recommender.similar_items(
            ids, k=k, source=source, on_unknown="raise" if strict else "report"
        )
    unknown = found.unknown["item_id"].to_list()
    if len(found.item_ids) == 0:
        raise DataError(f"The model knows none of these item ids: {', '.join(unknown)}.")
    if unknown and not json:
        output.note(f"coterie: the model does not know these item ids: {', '.join(unknown)}")
    frame = found.to_frame()
    output.result(
        {"source": found.source, "items": frame.to_dicts(), "unknown": unknown},
        frame_table(frame, "weights" if found.source == "weights" else f"cosine of {found.source}"),
    )
