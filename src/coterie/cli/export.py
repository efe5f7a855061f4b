"""``coterie export``: a model as an ONNX file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.options import Json, Overwrite
from coterie.cli.output import Output, facts_table
from coterie.cli.paths import model_folder

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it: a VAE, EASE or
PureSVD. The graph takes item indices (items, int64, -1 for padding) and gives the
scores of all items; MODEL.items.json, beside it, has the item ids in that order.
Nothing is written unless ONNX Runtime gives the scores that PyTorch gives. Needs
the extra: pip install 'coterie[export]'.

Examples:
  coterie export run --out model.onnx
  coterie export run --out model.onnx --overwrite --json
"""

app = new_app("export", EXAMPLES)


@app.default
def export(
    model: Annotated[Path, Parameter(help="The model.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="ONNX file to write.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a model as an ONNX file, for servers without coterie."""
    from coterie.exporting import export_onnx

    output = Output(as_json=json)
    folder = model_folder(model)
    with output.stages() as stage:
        stage("exporting and checking")
        done = export_onnx(folder, out, overwrite=overwrite)
    facts = {**asdict(done), "out": str(done.out), "items_file": str(done.items_file)}
    shown = {
        "items": done.n_items,
        "item ids": str(done.items_file),
        "histories checked": done.checked,
        "largest difference": f"{done.largest_difference:.1e} of the largest score",
        "overlap of the best 20": f"{done.overlap:.4f}",
    }
    output.result(facts, facts_table(f"ONNX model: {done.out}", shown))
