"""``coterie serve``: a model, or the arms of an experiment, behind HTTP."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from coterie.cli.app import new_app
from coterie.cli.ids import read_ids
from coterie.cli.options import ConfigFile, Section, Settings, Threads, accepts
from coterie.cli.output import Output
from coterie.cli.paths import DATA_FORMAT, SPLIT_FORMAT, format_of, model_folder, require_format
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import ConfigError, MissingExtraError, StorageError
from coterie.experiment.settings import NAME, read_experiment
from coterie.serving.settings import ItemFilter, ServeConfig

if TYPE_CHECKING:
    from coterie.serving.fleet import Fleet

EXAMPLES = """\
MODEL is a model's folder, or the folder of the run that trained it. It serves
everyone outside the experiments, and the control (first) arm of each. The store
is created, or brought to this version, when the server starts. A new version of
a model's folder is served as soon as it is there. Keys that clients must send are
read from COTERIE_API_KEYS, separated by commas. Needs the extra:
pip install 'coterie[serve]'.

Examples:
  coterie serve run
  coterie serve run --port 80 --host 0.0.0.0 --database postgresql://coterie@db/shop
  coterie serve control --arm pia=treated --experiment pia.toml
  coterie serve run --import-histories data --community split --config serve.toml
"""
SECTION = Section(ServeConfig, "Server", at="serve")
Arms = Annotated[
    tuple[str, ...],
    Parameter(
        name="--arm",
        consume_multiple=True,
        negative_iterable=(),
        show_default=False,
        help="NAME=MODEL, the models of experiments' arms; one or several.",
    ),
]
Experiments = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--experiment",
        consume_multiple=True,
        negative_iterable=(),
        show_default=False,
        help="TOML files of experiments; one or several.",
    ),
]

app = new_app("serve", EXAMPLES)


@app.default
@accepts(SECTION)
def serve(
    model: Annotated[Path, Parameter(help="The model.")],
    /,
    *,
    settings: Settings,
    arm: Arms = (),
    experiment: Experiments = (),
    import_histories: Annotated[
        Path | None,
        Parameter(help="Data set, or split (its training users), whose items are added first."),
    ] = None,
    community: Annotated[
        Path | None,
        Parameter(help="Data set, or split (its training users): who may help, to explain."),
    ] = None,
    threads: Threads = None,
    config: ConfigFile = None,
) -> None:
    """Answer requests for recommendations over HTTP."""
    options = settings.read(ServeConfig)
    folders = {"default": model_folder(model), **arm_folders(arm)}
    filters = {name: _filter(name, rules) for name, rules in settings.table("filters").items()}
    experiments = tuple(map(read_experiment, experiment))
    helpers = None if community is None else _users(community)
    newcomers = None if import_histories is None else _users(import_histories)
    try:
        from coterie.serving.process import bind, run
        from coterie.serving.store import Store, StoreUnavailable
    except ImportError as error:
        raise MissingExtraError(
            f"`coterie serve` needs {error.name}, which is not installed: "
            "pip install 'coterie[serve]'"
        ) from error
    from coterie.serving.fleet import Fleet
    from coterie.serving.keys import Keys

    keys = Keys.from_environment()
    with bind(options) as listening:  # a taken port is told before the long part
        fleet = Fleet(
            folders, experiments=experiments, filters=filters, community=helpers, threads=threads
        )
        limit_pytorch(fleet)
        store = Store(options.database, seconds=options.statement_seconds)
        if newcomers is not None:
            try:
                count = store.import_histories(newcomers)
            except StoreUnavailable as error:
                store.close()
                raise StorageError(
                    f"The histories are not all in {store}: {error}. Once it answers again, the "
                    "same command adds what lacks."
                ) from error
            Output().note(f"{count:,} interactions are in {store}")
        run(options, fleet, store, keys, listening)


def limit_pytorch(fleet: "Fleet") -> None:
    """Leave PyTorch, if it was imported, one thread where it finds no lists.

    More would spin where ONNX Runtime's threads, which find them, want the cores.
    """
    if "torch" in sys.modules and all(model.lists is not None for model in fleet.models.values()):
        import torch

        torch.set_num_threads(1)


def arm_folders(given: tuple[str, ...]) -> dict[str, Path]:
    """The models' folders by name, of ``NAME=MODEL`` each."""
    arms: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in arms or name == "default":
            raise ConfigError(
                f"--arm takes NAME=MODEL, each NAME once and none 'default', got {text!r}."
            )
        arms[name] = model_folder(Path(path))
    return arms


def _filter(name: str, rules: Any) -> ItemFilter:
    """A filter of the configuration file; ``@FILE`` stands for the ids in a file."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"filters: requests cannot ask for {name!r}; a name has letters, digits, '.', '_' and "
            "'-', the first a letter or digit, at most 100."
        )
    if not isinstance(rules, dict):
        raise ConfigError(f"filters.{name} must be a table with allow or deny, got {rules!r}.")
    for key, ids in rules.items():
        if not isinstance(ids, list):
            raise ConfigError(f"filters.{name}.{key} must be a list of ids or @FILEs, got {ids!r}.")
    try:
        found = ItemFilter.read({key: list(map(str, ids)) for key, ids in rules.items()})
    except ConfigError as error:
        raise ConfigError(f"filters.{name}: {error}") from error
    allow = None if found.allow is None else tuple(read_ids(list(map(str, found.allow))) or ())
    return ItemFilter(allow=allow, deny=tuple(read_ids(list(map(str, found.deny))) or ()))


def _users(path: Path) -> Interactions:
    """A data set, or the training users of a split."""
    if format_of(path) == SPLIT_FORMAT:
        return Split.open(path).train
    require_format(path, DATA_FORMAT)
    return Interactions.open(path)
