"""The documentation tells the truth: links, settings and their defaults, examples."""

import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from coterie.cli.app import app
from coterie.config import Config
from coterie.data.columns import USUAL_NAMES
from coterie.data.datasets import DATASETS

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *GUIDES]
DOCUMENTED = (
    "coterie.data.prepare.PrepareOptions",
    "coterie.cli.split.SplitOptions",
    "coterie.data.synthetic.SyntheticConfig",
    "coterie.models.config.ModelConfig",
    "coterie.models.config.PriorConfig",
    "coterie.objectives.elbo.ObjectiveConfig",
    "coterie.objectives.schedules.Schedule",
    "coterie.objectives.schedules.RateSchedule",
    "coterie.objectives.anchors.AnchorConfig",
    "coterie.objectives.masking.MaskConfig",
    "coterie.objectives.implicit_slim.ImplicitSlimConfig",
    "coterie.training.config.TrainingConfig",
    "coterie.training.config.RunContext",
    "coterie.models.baselines.item_knn.ItemKnnConfig",
    "coterie.models.baselines.ease.EaseConfig",
    "coterie.models.baselines.sparse_ease.SparseEaseConfig",
    "coterie.models.baselines.puresvd.PureSvdConfig",
    "coterie.models.baselines.ials.IalsConfig",
    "coterie.cli.evaluate.EvaluateOptions",
    "coterie.cli.compare.CompareOptions",
    "coterie.cli.recommend.RecommendOptions",
    "coterie.cli.diagnose.DiagnoseOptions",
    "coterie.study.settings.StudyConfig",
    "coterie.tuning.config.TuneConfig",
    "coterie.experiment.settings.Experiment",
    "coterie.experiment.settings.Metric",
    "coterie.experiment.settings.Guardrail",
    "coterie.experiment.settings.Group",
    "coterie.experiment.events.Event",
    "coterie.experiment.simulation.settings.SimulateOptions",
    "coterie.serving.settings.ServeConfig",
    "coterie.serving.settings.ItemFilter",
)
NONE, REQUIRED = "none", "required"
SETTINGS = re.compile(r"^<!-- settings: (\S+) -->\n((?:\|.*\n)+)", re.MULTILINE)
EXECUTED = re.compile(r"^<!-- executed -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
EXAMPLES = [guide for guide in GUIDES if EXECUTED.search(guide.read_text())]


def named(path: Path) -> str:
    return path.name


def anchors(path: Path) -> set[str]:
    """The headings as links name them: lower case, hyphens for spaces, no punctuation."""
    prose = FENCED.sub("", path.read_text())
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def tables() -> dict[str, list[tuple[str, str]]]:
    """Model → (setting, default as written) of every documented table."""
    found: dict[str, list[tuple[str, str]]] = {}
    for guide in GUIDES:
        for model, rows in SETTINGS.findall(guide.read_text()):
            assert model not in found, f"{model} is documented twice"
            found[model] = []
            for row in rows.splitlines()[2:]:
                names, defaults = (cell.strip() for cell in row.split("|")[1:3])
                listed = re.findall(r"`([^`]+)`", names)
                values = re.findall(r"`([^`]+)`", defaults) or [defaults]
                if len(values) == 1:
                    values *= len(listed)
                found[model] += zip(listed, values, strict=True)
    return found


def load(name: str) -> type[Config]:
    module, _, attribute = name.rpartition(".")
    model: type[Config] = getattr(import_module(module), attribute)
    return model


def read(text: str) -> Any:
    return None if text == NONE else tomllib.loads(f"value = {text}")["value"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(FENCED.sub("", document.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_all_settings_have_a_table() -> None:
    assert set(tables()) == set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_tables_name_every_setting_with_its_default(name: str) -> None:
    model, rows = load(name), tables()[name]
    assert sorted(setting for setting, _ in rows) == sorted(model.model_fields)
    needed = {name for name, field in model.model_fields.items() if field.is_required()}
    assert {setting for setting, text in rows if text == REQUIRED} == needed
    for setting, text in rows:
        if setting not in needed:
            default = model.model_fields[setting].get_default(call_default_factory=True)
            written = TypeAdapter(model.model_fields[setting].annotation).validate_python(
                read(text)
            )
            assert written == default, f"{setting}: the text says {text}"


def test_the_usual_column_names_are_listed_in_order() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    for role, names in USUAL_NAMES.items():
        assert f"| {role.removesuffix('_id')} | {', '.join(names)} |" in text


def test_the_public_data_sets_are_listed() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    assert [name for name in DATASETS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("guide", EXAMPLES, ids=named)
def test_marked_examples_run(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "example"}
    for block in EXECUTED.findall(guide.read_text()):
        exec(compile(block, guide.name, "exec"), scope)


def commands() -> list[str]:
    """Every command line: of console blocks, and of prose that gives it in backticks."""
    found = set()
    for document in DOCUMENTS:
        text = document.read_text()
        for block in CONSOLE.findall(text):
            found |= set(block.replace("\\\n", " ").splitlines())
        found |= set(re.findall(r"`(coterie \w+ [^`]+)`", FENCED.sub("", text)))
    return sorted(line for line in found if line.startswith("coterie ") and "…" not in line)


@pytest.mark.parametrize("line", commands())
def test_commands_and_their_flags_exist(line: str) -> None:
    app.parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)
