"""``coterie evaluate``: how good a model's lists are for users that it has not seen."""

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field, PositiveInt

from coterie.cli.app import new_app
from coterie.cli.options import ConfigFile, Json, Overwrite, Section, Settings, accepts
from coterie.cli.output import Output
from coterie.cli.paths import SPLIT_FORMAT, model_folder, require_format
from coterie.config import Config
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.evaluation.cohorts import DEFAULT_COHORTS, Cohort
from coterie.evaluation.protocol import evaluate as measure
from coterie.evaluation.result import Evaluation
from coterie.files import atomic_file, refuse_existing
from coterie.recommender import Recommender

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. All items
but the fold-in are ranked; users without held-out items are counted, and left
out.

Examples:
  coterie evaluate run split
  coterie evaluate run split --on validation --ks 10 20
  coterie evaluate run split --cohorts 5-10 11-50 51-100 101-
  coterie evaluate run split --out per_user.parquet
  coterie evaluate run split --json > figures.json
"""


class EvaluateOptions(Config):
    """What to measure."""

    on: Literal["test", "validation"] = Field("test", description="Which held-out users.")
    ks: tuple[Annotated[int, Field(ge=1, le=99_999)], ...] = Field(
        (20, 50, 100), description="Lengths of the lists."
    )
    cohorts: tuple[str, ...] = Field(
        tuple(f"{c.low}-{'' if c.high is None else c.high}" for c in DEFAULT_COHORTS),
        description="Groups of users by items in the history: FROM-TO, or FROM- without end.",
    )
    batch_size: PositiveInt = Field(500, description="Users scored at once.")


app = new_app("evaluate", EXAMPLES)


@app.default
@accepts(Section(EvaluateOptions, "Options", at="evaluate"))
def evaluate(
    model: Annotated[Path, Parameter(help="The model.")],
    split: Annotated[Path, Parameter(help="The split.")],
    /,
    *,
    settings: Settings,
    out: Annotated[
        Path | None,
        Parameter(help="File to write: .json (the figures) or .parquet (each user's)."),
    ] = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Rank all items for held-out users and measure how good the lists are."""
    output = Output(as_json=json)
    options = settings.read(EvaluateOptions)
    cohorts = tuple(map(cohort, options.cohorts))
    _check_out(out, overwrite=overwrite)
    folder = model_folder(model)
    require_format(split, SPLIT_FORMAT)
    data = Split.open(split, verify=True)
    recommender = Recommender.load(folder)
    with output.counting("users") as progress:
        result = measure(
            recommender,
            data.test if options.on == "test" else data.validation,
            ks=options.ks,
            item_counts=recommender.item_counts,
            cohorts=cohorts,
            batch_size=options.batch_size,
            progress=progress,
        )
    facts = {"model": str(folder), "split": str(split), "on": options.on, **result.to_dict()}
    if out is not None:
        _write(result, out, facts)
    written = [] if out is None else [f"Written: {out}"]
    output.result(facts, result.table(), result.cohort_table(), *written)


def cohort(text: str) -> Cohort:
    """Read ``"11-50"`` or ``"101-"``."""
    low, dash, high = text.replace("–", "-").partition("-")
    if not (low.isdecimal() and dash and (not high or high.isdecimal())):
        raise ConfigError(f"A cohort is FROM-TO or FROM-, for example 11-50 or 101-; got {text!r}.")
    if high and int(high) < int(low):
        raise ConfigError(f"The cohort {text!r} is empty: {high} is less than {low}.")
    return Cohort(name=f"{low}–{high}", low=int(low), high=int(high) if high else None)


def _check_out(out: Path | None, *, overwrite: bool) -> None:
    if out is None:
        return
    if out.suffix not in (".json", ".parquet"):
        raise ConfigError(f"--out must end in .json or .parquet, got {out}.")
    refuse_existing(out, overwrite=overwrite)


def _write(result: Evaluation, out: Path, facts: dict[str, object]) -> None:
    with atomic_file(out) as aside:
        if out.suffix == ".parquet":
            result.to_frame().write_parquet(aside)
        else:
            aside.write_text(json_module.dumps(facts, indent=2, allow_nan=False) + "\n")
