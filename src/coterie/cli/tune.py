"""``coterie tune``: search a model's settings on the validation users of a split."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.contestants import CONTEXT, Words, run_context
from coterie.cli.options import ConfigFile, Json, Section, Settings, accepts
from coterie.cli.output import Output, duration, frame_table, shown
from coterie.cli.paths import SPLIT_FORMAT, require_format
from coterie.cli.progress import watched
from coterie.data.parts import Split
from coterie.errors import ConfigError
from coterie.spaces import Choice, Range
from coterie.tuning.candidates import MODELS, Candidate, candidate, knows
from coterie.tuning.config import TuneConfig
from coterie.tuning.records import TrialRecord
from coterie.tuning.results import Tuned, best_file, write_results
from coterie.tuning.run import tune as run_tuning
from coterie.tuning.search import Step
from coterie.tuning.space import read_entry
from coterie.tuning.storage import require_optuna

EXAMPLES = """\
SPLIT is a folder of `coterie split`; its test part is not opened. DIR gets
study.sqlite, and in the end best.toml (of several models: best-MODEL.toml),
trials.json and trials.parquet. The first trial is the model's own settings.

Ctrl-C stops; the same command goes on, and a larger budget extends the search.
The same command, started several times at once, shares the work.

A setting is named as in a configuration file, table and key: objective.beta.end,
training.learning_rate, ease.l2.

Examples:
  coterie tune split --model recvae+pia --out tuned --trials 20
  coterie tune split --models multi-vae multi-vae+pia ease --out tuned --minutes 30
  coterie tune split --model multi-vae --out tuned --fix training.epochs=50
  coterie tune split --model ease --out tuned --config space.toml
  coterie train split --out run --config tuned/best.toml

space.toml:
  [tune]
  trials = 40
  [search]
  "ease.l2" = {low = 10.0, high = 5000.0, log = true}
"""
MOST_SHOWN = 20  # trials in the table for people; the files have all

SECTION = Section(TuneConfig, "Search", at="tune")

app = new_app("tune", EXAMPLES)


@app.default
@accepts(SECTION, CONTEXT)
def tune(
    split: Annotated[Path, Parameter(help="The split.")],
    /,
    *,
    models: Annotated[
        Words,
        Parameter(
            name=("--models", "--model"), help=f"Each gets the same budget: {', '.join(MODELS)}."
        ),
    ],
    out: Annotated[Path, Parameter(help="DIR, the folder to write.")],
    settings: Settings,
    fix: Annotated[
        Words,
        Parameter(show_default=False, help="SETTING=VALUE: not searched, but so in all trials."),
    ] = (),
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Search a model's settings, on validation users only."""
    output = Output(as_json=json)
    require_optuna()
    options, context = settings.read(TuneConfig), run_context(settings, checkpoints=False)
    context.torch_device()
    candidates = candidates_of(models, options, _fixed(fix), _entries(settings.table("search")))
    require_format(split, SPLIT_FORMAT)
    data = Split.open(split, verify=True, test=False)
    found = run_tuning(
        candidates,
        data,
        out,
        config=options,
        context=context,
        watch=watched,
        progress=lambda step: output.note(line_of(step, options.metric)),
    )
    if found is None:
        output.note(f"stopped; finished trials are in {out}; the same command goes on")
        return 130
    written = write_results(out, found)
    for one in found:
        if one.n_running:
            output.note(f"{one.candidate.name}: {one.n_running} trials still run elsewhere")
    _show(output, split, out, found, written)
    return 0


def _show(
    output: Output, split: Path, out: Path, found: Sequence[Tuned], written: Sequence[Path]
) -> None:
    first = best_file(out, found[0].candidate.name, alone=len(found) == 1)
    output.result(
        {
            "tuned": str(out),
            "written": list(map(str, written)),
            "models": [one.to_dict() for one in found],
        },
        *(part for one in found for part in (trials_table(one), best_line(one))),
        f"Next: coterie train {split} --out run --config {first}",
    )


def candidates_of(
    models: Sequence[str],
    options: TuneConfig,
    fixed: Mapping[str, Any],
    search: Mapping[str, Range | Choice],
) -> list[Candidate]:
    """Each model with what concerns it of the fixed values and the entries of the space.

    Raises
    ------
    ConfigError
        A setting that no model has, or of a single model what it does not have.
    """
    concerns = {name: {*fixed, *search} for name in models}
    if len(models) > 1:
        concerns = {name: {key for key in keys if knows(name, key)}
                    for name, keys in concerns.items()}  # fmt: skip
        nobody = {*fixed, *search} - set().union(*concerns.values())
        if nobody:
            raise ConfigError(f"None of the models has the settings {', '.join(sorted(nobody))}.")
    return [
        candidate(
            name,
            metric=options.metric,
            seed=options.seed,
            fixed={key: value for key, value in fixed.items() if key in concerns[name]},
            search={key: of for key, of in search.items() if key in concerns[name]},
        )
        for name in models
    ]


def line_of(step: Step, metric: str) -> str:
    """What is said when a trial is finished."""
    record, best = step.record, step.best
    of = "" if step.total is None else f" of {step.total}"
    value = "no figure" if record.value is None else f"{metric} {record.value:.4f}"
    ended = "" if record.outcome == "complete" else f" ({record.outcome})"
    epochs = "" if record.epochs is None else f", {record.epochs} epochs"
    top = "" if best is None else f"; best {best.value:.4f}, trial {best.number}"
    return (
        f"{step.model}: trial {step.done}{of}: {value}{ended}{epochs}, "
        f"{duration(record.seconds)}{top}; about {duration(step.seconds_left)} left"
    )


def trials_table(tuned: Tuned) -> Any:
    """The best trials, best first."""
    ranked = sorted(tuned.records, key=_rank)[:MOST_SHOWN]
    rows = [
        {
            "trial": record.number,
            "validation": "–" if record.value is None else f"{record.value:.4f}",
            "ended": record.outcome,
            "settings": ", ".join(
                f"{key.removeprefix('model.').removeprefix('objective.').removeprefix('training.')}"
                f"={shown(value) or '[]'}"
                for key, value in record.settings.items()
            ),
        }
        for record in ranked
    ]
    title = f"{tuned.candidate.name}: {len(tuned.records)} trials by {tuned.candidate.metric}"
    return frame_table(pl.DataFrame(rows), title)


def best_line(tuned: Tuned) -> str:
    """The best trial, and what the search cost."""
    best = tuned.best
    return (
        f"{tuned.candidate.name}: best {tuned.candidate.metric} {best.value:.4f} (trial "
        f"{best.number}); {len(tuned.records)} trials in {duration(tuned.seconds)}"
    )


def _rank(record: TrialRecord) -> tuple[float, int]:
    return (1.0 if record.value is None else -record.value, record.number)


def _fixed(given: Sequence[str]) -> dict[str, Any]:
    """``setting=value`` as a dictionary; values are read as TOML, or else taken as text."""
    fixed = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"--fix takes SETTING=VALUE, for example ease.l2=500; got {text!r}.")
        fixed[name.strip()] = _value(value.strip())
    return fixed


def _value(text: str) -> Any:
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _entries(table: Mapping[str, Any], within: str = "") -> dict[str, Range | Choice]:
    """The file's search entries; tables in tables spell the same dotted names."""
    entries: dict[str, Range | Choice] = {}
    for key, value in table.items():
        name = f"{within}.{key}".removeprefix(".")
        if isinstance(value, dict) and "low" not in value and "high" not in value:
            entries |= _entries(value, name)
        else:
            entries[name] = read_entry(name, value)
    return entries
