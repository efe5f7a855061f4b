"""What a study found: a page, a summary in Markdown, all figures as JSON, and as pictures."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.interactions import Interactions
from coterie.errors import MissingExtraError
from coterie.files import atomic_file
from coterie.mechanisms.diagnose import generator_for
from coterie.mechanisms.latent_map import latent_map
from coterie.mechanisms.measurement import Budget, Measurement
from coterie.mechanisms.numbers import number
from coterie.mechanisms.page import Image, Panel, Point, Section, Table, write_page
from coterie.mechanisms.style import save_figure
from coterie.recommender import Recommender
from coterie.study import plots
from coterie.study.findings import ALPHA, MARGIN, Finding, Records
from coterie.study.folder import StudyFolder
from coterie.study.outcome import Study, tally
from coterie.study.settings import MAIN, METRIC

PAGE, SUMMARY, RESULTS = "report.html", "summary.md", "results.json"
TITLE = "Clean input, masking, and masking + PIA"
CAPTIONS = {
    "quality": "NDCG@100 by setting",
    "cohorts": "NDCG@100 by length of the history",
    "neighbourhoods": "Drift, and variance across masks",
    "collaboration": "Global share of help, and active units",
    "collapse": "What β does to the code",
    "tau": "Alignment: predicted and measured",
    "sensitivity": "Sensitivity to β, ρ and λ_A",
    "ablation": "The parts of PIA alone",
}
BOUND = (
    "Information, in nats, is a lower bound: its estimate cannot exceed the logarithm of the "
    "number of users it is made from."
)
EXTRAS = {"jinja2": "Jinja2", "matplotlib": "matplotlib", "openTSNE": "openTSNE", "ot": "POT"}


def require_extras() -> None:
    """Find out before training what the report would lack after it."""
    missing = [name for module, name in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"The study needs {', '.join(missing)}: pip install 'coterie[mechanisms]'."
        )


def maps_of(study: Study, folder: StudyFolder, users: Interactions) -> Measurement:
    """The latent maps of the first seed's main settings, in one projection's settings."""
    seed, config = study.seeds[0], study.plan.config
    models = {
        study.plan[key].label: Recommender.load(folder.model(seed, key), device="cpu").vae
        for key in MAIN
    }
    generator = generator_for(config.measured_seed, "latent_map")
    return latent_map(models, users, generator=generator, budget=Budget(seconds=config.budget))


def write_results(
    study: Study,
    folder: Path,
    *,
    latent: Measurement | None = None,
    figures: Path | None = None,
) -> list[Path]:
    """Write page, summary and JSON into ``folder``, and PNG and SVG into ``figures`` if given."""
    drawn = plots.figures(Records(study.records), study.plan)
    written = [write_page(folder / PAGE, TITLE, sections(study, latent), lead=[_lead(study)])]
    with atomic_file(folder / SUMMARY) as aside:
        aside.write_text(markdown(study, latent), encoding="utf-8")
    with atomic_file(folder / RESULTS) as aside:
        aside.write_text(json.dumps(_finite(study.to_dict()), indent=1, allow_nan=False) + "\n")
    written += [folder / SUMMARY, folder / RESULTS]
    if figures is not None:
        every = {name: draw() for name, draw in drawn.items()}
        if latent is not None:
            every[latent.name] = latent.plot()
        for name, figure in every.items():
            written += [save_figure(figure, figures / f"{name}.{end}") for end in ("png", "svg")]
    return written


def sections(study: Study, latent: Measurement | None) -> list[Section]:
    """The page's parts: findings, the table by setting, the figures, and the method."""
    table = Records(study.records)
    findings = tuple(
        Panel(one.claim, points=(Point(one.sentence, one.verdict.capitalize()),))
        for one in study.findings
    )
    parts = [
        Section(
            "What was found", "findings", (tally(study.findings),), figures=findings, notes=_rules()
        ),
        Section(
            "By setting",
            "settings",
            (f"Mean ± standard deviation over {study.span}. {BOUND}",),
            (Table.of_frame("Headline figures", study.by_setting()),),
        ),
    ]
    for name, draw in plots.figures(table, study.plan).items():
        image = Image.of(draw(), f"Plot: {CAPTIONS[name]}. The numbers are in results.json.")
        panel = Panel(f"Mean ± standard deviation, and each of {study.span}", image)
        parts.append(Section(CAPTIONS[name], name, figures=(panel,)))
    if latent is not None:
        image = Image.of(latent.plot(), f"Plot: {latent.title}. {latent.sentence()}")
        panel = Panel(
            f"Seed {study.seeds[0]}", image, (Point(latent.sentence()),), tuple(latent.warnings())
        )
        note = f"How it was computed: {latent.method}"
        parts.append(
            Section(latent.title, latent.name, (latent.meaning,), figures=(panel,), notes=(note,))
        )
    return [*parts, _about(study)]


def markdown(study: Study, latent: Measurement | None = None) -> str:
    """The same in short: findings and the table by setting."""
    lines = [f"# {TITLE}", "", _lead(study), "", "## What was found", "", tally(study.findings), ""]
    lines += _pipes(("claim", "verdict", "numbers"), _rows(study.findings))
    frame = study.by_setting()
    spans = f"Mean ± standard deviation over {study.span}. {BOUND}"
    lines += ["", "## By setting", "", spans, ""]
    lines += _pipes(frame.columns, [[str(cell) for cell in row] for row in frame.iter_rows()])
    if latent is not None:
        lines += ["", f"## {latent.title}", "", latent.sentence()]
    lines += ["", "## Method", "", *(f"- {line}" for line in (*_rules(), *_method(study)))]
    return "\n".join(lines) + "\n"


def _rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    return [(finding.claim, finding.verdict, finding.sentence) for finding in findings]


def _rules() -> tuple[str, ...]:
    return (
        f"Confirmed: p < {ALPHA} in a two-sided paired t-test over seeds, and the claimed sign. "
        f"Not confirmed: p < {ALPHA} and the other sign. Unclear: neither. For a predicted value: "
        f"confirmed if the 95 % interval of measured / predicted lies within 1/{MARGIN:g} to "
        f"{MARGIN:g}; else not confirmed if p < {ALPHA} that they differ. The rules were fixed "
        "before any result; nothing corrects for the number of claims.",
    )


def _method(study: Study) -> tuple[str, ...]:
    config, data = study.plan.config, study.identity.get("data", {})
    drawn = (
        "Each seed draws its own split, weights, order, masks and noise; users may be for testing "
        "in several seeds, so seeds are not wholly independent."
        if data.get("split_per_seed")
        else "The split is the same for all seeds, which draw weights, order, masks and noise."
    )
    return (
        f"Data: {data.get('name')}, {data.get('protocol')}. {drawn}",
        "Nothing is tuned: all settings share the base point "
        f"(β {config.beta:g}, ρ {config.rho:g}, λ_A {config.lambda_a:g}), network and training, so "
        "a setting may have a better point of its own. The best epoch is chosen on validation "
        "users; each run looks at the test users once, and nothing is selected on them.",
        f"Mechanisms are measured on {config.measured_users:,} training users at most, the same "
        f"for all settings of a seed, with the same masks (ρ = {config.measured_rho:g}), whatever "
        "masks a model met in training. Clean input met none.",
    )


def _about(study: Study) -> Section:
    rows = [
        (
            study.plan[record.key].label,
            str(record.seed),
            number(record.values["best_epoch"]),
            number(record.beta),
            f"{record.metric(METRIC):.4f}",
            f"{record.seconds:.0f}",
        )
        for record in study.records
    ]
    runs = Table(
        "Runs", ("setting", "seed", "best epoch", "β then", METRIC, "seconds"), tuple(rows)
    )
    return Section("How it was done", "method", _method(study), (runs,))


def _lead(study: Study) -> str:
    return (
        f"{len(study.plan.keys)} settings, {study.span}, on "
        f"{study.identity.get('data', {}).get('name', 'the data')}: the study of arXiv 2511.06781, "
        "repeated with coterie."
    )


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in every]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
