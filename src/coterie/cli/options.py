"""Flags and configuration files, both made from the settings' own pydantic models.

A command says which models it accepts; each of their fields becomes a flag with the field's type,
description and default. Values come from the defaults, then the file (``--config``), then the
flags: each key that is given replaces one default and leaves the others as they are.
"""

import functools
import inspect
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from cyclopts import Group, Parameter, validators
from pydantic import BaseModel, ValidationError

from coterie.config import HIGHEST_SEED, Config, merged
from coterie.errors import ConfigError, CoterieError, DataError

SECTIONS = (
    "prepare",
    "split",
    "model",
    "objective",
    "training",
    "run",
    "item-knn",
    "ease",
    "sparse-ease",
    "puresvd",
    "ials",
    "evaluate",
    "compare",
    "recommend",
    "diagnose",
    "study",
    "tune",
    "search",
    "serve",
    "filters",
    "simulate",
)
"""The tables that a configuration file may have; a command reads those that it accepts."""

Json = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="Print one JSON object to standard output, and nothing else there.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        name="--config", help="TOML file of settings; flags override it.", show_default=False
    ),
]
Overwrite = Annotated[
    bool,
    Parameter(
        name="--overwrite",
        negative="",
        show_default=False,
        help="Replace what is there already.",
    ),
]
Seed = Annotated[
    int,
    Parameter(
        name="--seed",
        help="Determines everything that is drawn.",
        validator=validators.Number(gte=0, lte=HIGHEST_SEED),
    ),
]
Threads = Annotated[
    int | None,
    Parameter(
        name="--threads",
        validator=validators.Number(gte=1),
        show_default=False,
        help="Processor threads; else all cores.",
    ),
]
Checkpoints = Annotated[
    bool,
    Parameter(
        name="--checkpoints",
        negative="",
        show_default=False,
        help="Continue a stopped run where it stopped, not from its beginning; slower.",
    ),
]

M = TypeVar("M", bound=Config)
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A settings model that a command accepts.

    Parameters
    ----------
    model
        The model.
    title
        Heading of the flags in the help, with each table's name if there are several.
    at
        Its table in the configuration file; empty if each of its fields is a table.
    flags
        Other names of single flags, by dotted field.
    types
        What the command line accepts where it differs from the field's type.
    resolve
        From what is given and the base that replaces the defaults (None: no such base) to all
        values; None puts the one over the other.
    """

    model: type[Config]
    title: str
    at: str = ""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    resolve: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Mapping[str, Any]] | None = (
        None
    )

    @property
    def tables(self) -> tuple[str, ...]:
        """Its tables in the configuration file."""
        return (self.at,) if self.at else tuple(self.model.model_fields)


@dataclass(frozen=True)
class Leaf:
    """One setting: where it is, and what is known about it."""

    path: Path_
    annotation: Any
    description: str
    default: Any


class Settings:
    """What file and flags say about each accepted model."""

    def __init__(
        self, sections: tuple[Section, ...], flags: dict[Path_, Any], file: dict[str, Any]
    ) -> None:
        self._sections = {section.model: section for section in sections}
        self._flags = flags
        self._file = file

    def read(self, model: type[M], base: Mapping[str, Any] | None = None) -> M:
        """The validated settings.

        Parameters
        ----------
        model
            One of the accepted models.
        base
            Values that take the place of the model's defaults.

        Raises
        ------
        ConfigError
            A key is unknown (the nearest is named) or a value out of range.
        """
        section, given = self._sections[model], self.values(model)
        if section.resolve is not None:
            values = section.resolve(given, base)
        else:
            values = merged(merged(model().model_dump(), base or {}), given)
        flags = {path[1:]: value for path, value in self._flags.items() if path[0] == section.title}
        return _validated(section, model, values, flags)

    def given(self, model: type[Config]) -> set[str]:
        """The fields that the file or a flag sets."""
        section = self._sections[model]
        return {*self._in_file(section), *self._in_flags(section)}

    def values(self, model: type[Config]) -> dict[str, Any]:
        """What the file and the flags say, nested; not yet validated."""
        section = self._sections[model]
        return merged(self._in_file(section), self._in_flags(section))

    def flagged(self, model: type[Config]) -> dict[str, Any]:
        """What the flags alone say, nested; not yet validated."""
        return self._in_flags(self._sections[model])

    def table(self, name: str) -> dict[str, Any]:
        """A table of the file as it stands there; empty if there is none."""
        found = self._file.get(name, {})
        if not isinstance(found, dict):
            raise ConfigError(f"{name!r} in the configuration must be a table, got {found!r}.")
        return found

    def _in_file(self, section: Section) -> dict[str, Any]:
        if not section.at:
            return {key: value for key, value in self._file.items() if key in section.tables}
        return self.table(section.at)

    def _in_flags(self, section: Section) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for (title, *path), value in self._flags.items():
            if title == section.title:
                inner = given
                for key in path[:-1]:
                    inner = inner.setdefault(key, {})
                inner[path[-1]] = value
        return given


def accepts(*sections: Section) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags of these models, read into its parameter ``settings``.

    A parameter ``config`` of the command, if there is one, is the path of the configuration file.
    """
    options = {
        f"{section.title}__{'__'.join(leaf.path)}".replace("-", "_"): (section, leaf)
        for section in sections
        for leaf in leaves(section.model)
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "settings"
        ]
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_annotation(section, leaf),
            )
            for name, (section, leaf) in options.items()
        ]

        @functools.wraps(command)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            flags = {
                (section.title, *leaf.path): kwargs.pop(name)
                for name, (section, leaf) in options.items()
                if name in kwargs
            }
            path = kwargs.pop("config", None)
            file = {} if path is None else read_config(path)
            return command(*args, **kwargs, settings=Settings(sections, flags, file))

        wrapper.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *made]}
        return wrapper

    return decorate


def leaves(model: type[BaseModel], path: Path_ = (), about: str = "") -> Iterator[Leaf]:
    """All single settings of a model and of the models within it."""
    defaults = model()
    for name, info in model.model_fields.items():
        description = f"{about} {info.description or ''}".strip()
        default = getattr(defaults, name)
        if isinstance(default, BaseModel):
            for leaf in leaves(type(default), (*path, name), description):
                inner = functools.reduce(getattr, leaf.path[len(path) + 1 :], default)
                yield Leaf(leaf.path, leaf.annotation, leaf.description, inner)
        else:
            yield Leaf((*path, name), info.annotation, description, default)


def flag_names(section: Section, leaf: Leaf) -> tuple[str, ...]:
    """The flags of a setting: its field, without the table if the section has several."""
    path = leaf.path if section.at else leaf.path[1:]
    usual = "--" + ".".join(path).replace("_", "-")
    return section.flags.get(".".join(leaf.path), (usual,))


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file's tables.

    Raises
    ------
    ConfigError
        It is not valid TOML, or has a table that we do not know; the nearest is named.
    DataError
        It does not exist (the message names its neighbours) or cannot be read.
    """
    from coterie.data.guard import existing  # takes its time; needed with a file only

    path = existing(path)
    try:
        text = path.read_text(encoding="utf-8")
        values: dict[str, Any] = (json if path.suffix == ".json" else tomllib).loads(text)
    except OSError as error:
        raise DataError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The configuration {path} is not valid: {error}.") from error
    for key in values:
        if key not in SECTIONS:
            raise ConfigError(f"{path}: {_unknown('table', key, SECTIONS)}")
    return values


def _annotation(section: Section, leaf: Leaf) -> Any:
    title, order = section.title, len(SECTIONS)  # after the tables of others
    if not section.at:
        title, order = leaf.path[0].capitalize(), 1 + section.tables.index(leaf.path[0])
    default = _shown(leaf.default)
    return Annotated[
        section.types.get(".".join(leaf.path), _bare(leaf.annotation)) | None,
        Parameter(
            name=flag_names(section, leaf),
            help=leaf.description,
            group=Group(title, sort_key=order),
            show_default=(lambda _: default) if default else False,
            consume_multiple=True,
            negative_iterable=(),
        ),
    ]


def _shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _bare(annotation: Any) -> Any:
    """The type without pydantic's constraints, which are checked later."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return annotation
    arguments = tuple(map(_bare, get_args(annotation)))
    if not arguments:
        return annotation
    if get_origin(annotation) in (UnionType, Union):
        return Union[arguments]  # noqa: UP007 - made of a tuple
    return get_origin(annotation)[arguments]


def _validated(
    section: Section, model: type[M], values: Mapping[str, Any], flags: Mapping[Path_, Any]
) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            cause = item.get("ctx", {}).get("error")
            what = str(cause) if isinstance(cause, Exception) else item["msg"]
            if not isinstance(cause, CoterieError):
                what = f"{what}, got {item['input']!r}."
            place = _place(section, tuple(map(str, item["loc"])), flags)
            lines.append(f"{place}: {what}" if place else what)  # "" is of several tables
        raise ConfigError("\n".join(lines)) from error


def _place(section: Section, path: Path_, flags: Mapping[Path_, Any]) -> str:
    """A setting as the user wrote it: the flag, if there was one, and its name in the file."""
    named = ".".join(filter(None, [section.at, *path]))
    for leaf in leaves(section.model):
        if leaf.path in flags and path[: len(leaf.path)] == leaf.path:
            flag = flag_names(section, leaf)[0]
            return flag if flag == f"--{named}" else f"{flag} ({named})"
    return named


def _unknown(what: str, key: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no {what} {key!r}{hint} It knows: {', '.join(known)}."
