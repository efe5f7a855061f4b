"""``coterie recommend``: items for one history, or for all users of a data set."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field, PositiveInt

from coterie.cli.app import new_app
from coterie.cli.ids import read_ids
from coterie.cli.options import ConfigFile, Json, Overwrite, Section, Settings, accepts
from coterie.cli.output import Output, facts_table, frame_table, in_flags
from coterie.cli.paths import DATA_FORMAT, SPLIT_FORMAT, format_of, model_folder
from coterie.config import Config
from coterie.data.interactions import Interactions
from coterie.data.readers import read_interactions
from coterie.errors import ConfigError
from coterie.recommendations import Recommendations
from coterie.recommender import Recommender

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. Users need
not have been seen in training. If a history is empty (--history alone), or none
of its items is known, the most popular items are given, and the result says so.
@FILE stands for the ids in a file, one per line.

Examples:
  coterie recommend run --history 318 527 2571 -k 5
  coterie recommend run --history @watched.txt --deny @blocked.txt --json
  coterie recommend run --data data --out recommendations.parquet -k 100
  coterie recommend run --data new_users.csv --out new.parquet --allow @stock.txt
  coterie recommend run --data split/test_fold_in --out test.parquet
"""


class RecommendOptions(Config):
    """What a list may hold."""

    k: PositiveInt = Field(10, description="Length of the lists.")
    exclude_seen: bool = Field(True, description="Leave out the items of the user's own history.")
    strict: bool = Field(False, description="Make item ids that the model lacks an error.")
    batch_size: PositiveInt | None = Field(
        None, description="Users scored at once; else as many as fit in 64 MiB."
    )


SECTION = Section(
    RecommendOptions, "Options", at="recommend", flags={"k": ("-k", "--k"), "strict": ("--strict",)}
)
HISTORIES = ("test_fold_in", "validation_fold_in", "train")  # of a split, to recommend from
Ids = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]

app = new_app("recommend", EXAMPLES)


@app.default
@accepts(SECTION)
def recommend(
    model: Annotated[Path, Parameter(help="The model.")],
    /,
    *,
    settings: Settings,
    history: Annotated[Ids, Parameter(help="Item ids of one user, or @FILE.")] = None,
    data: Annotated[
        Path | None, Parameter(help="Histories of many users: what `coterie prepare` reads.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="with --data: Parquet file to write.")] = None,
    allow: Annotated[Ids, Parameter(help="Recommend only these, or @FILE.")] = None,
    deny: Annotated[Ids, Parameter(help="Never recommend these, or @FILE.")] = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Recommend items to one user or to millions."""
    output = Output(as_json=json)
    options = settings.read(RecommendOptions)
    if data is not None and history is not None:
        raise ConfigError("--history is one user, --data many; give one of the two.")
    if (data is None) != (out is None):
        raise ConfigError("--data and --out belong together: histories in, a Parquet file out.")
    if data is None and history is None:
        raise ConfigError("Say for whom: --history (one user's item ids) or --data (many users).")
    asked: dict[str, Any] = {
        "k": options.k,
        "exclude_seen": options.exclude_seen,
        "allow": read_ids(allow),
        "deny": read_ids(deny),
        "on_unknown": "raise" if options.strict else "report",
        "batch_size": options.batch_size,
    }
    ids = read_ids(history) or []
    recommender = Recommender.load(model_folder(model))
    with in_flags():
        if data is None or out is None:
            show_one(recommender.recommend([ids], **asked), output)
        else:
            _export(recommender, data, out, output, {**asked, "overwrite": overwrite})


def show_one(found: Recommendations, output: Output) -> None:
    """Print one user's list."""
    frame = found.to_frame().drop("user_id", "fallback")
    fallback = bool(found.fallback[0])
    unknown = found.unknown.to_dicts()
    if unknown and not output.as_json:
        names = ", ".join(
            row["item_id"] if row["item_id"].strip() else repr(row["item_id"]) for row in unknown
        )
        output.note(f"coterie: the model does not know these item ids: {names}")
    why = "Most popular items: there is no history that the model knows." if fallback else ""
    output.result(
        {"fallback": fallback, "items": frame.to_dicts(), "unknown": unknown},
        frame_table(frame.select("rank", *(c for c in frame.columns if c != "rank")), why),
    )


def _export(
    recommender: Recommender, data: Path, out: Path, output: Output, asked: dict[str, Any]
) -> None:
    if out.suffix != ".parquet":
        raise ConfigError(f"--out must end in .parquet, got {out}.")
    if format_of(data) == SPLIT_FORMAT:
        parts = ", ".join(str(data / name) for name in HISTORIES)
        raise ConfigError(f"{data} is a split; give one of its parts: {parts}.")
    if format_of(data) == DATA_FORMAT:
        users = Interactions.open(data, verify=True)
    else:
        with output.stages() as stage:
            users = read_interactions(data, progress=stage)
    with output.counting("users") as progress:
        export = recommender.recommend_to_parquet(users, out, **asked, progress=progress)
    facts = {
        "users": export.n_users,
        "by_popularity": export.n_fallback,
        "unknown_item_ids": len(export.unknown),
    }
    output.result(
        {"out": str(out), **facts, "unknown": export.unknown.to_dicts()},
        facts_table(f"recommendations: {out}", facts),
    )
