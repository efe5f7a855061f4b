"""The models that a server serves, and their replacement while it runs."""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, CoterieError
from coterie.experiment.assignment import Roster, arm_of
from coterie.experiment.settings import Experiment
from coterie.serving.served import ServedModel, load
from coterie.serving.settings import ItemFilter
from coterie.stored import version_of

DEFAULT = "default"
log = logging.getLogger(__name__)


class Fleet:
    """Models by name, and the experiments that divide users among them.

    Parameters
    ----------
    folders
        By name; :data:`DEFAULT` serves everyone outside the experiments, and the control (first)
        arm of an experiment unless there is a model of that name.
    experiments
        All that may be asked for.
    filters
        Item filters that requests may name.
    community
        Known users, for explanations.
    threads
        For a VAE's lists; None: as many as there are cores.

    Raises
    ------
    ConfigError
        Experiments cannot run together, an arm has no model, or a model no arm.
    ArtifactError
        A model cannot be loaded.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        experiments: tuple[Experiment, ...] = (),
        filters: Mapping[str, ItemFilter] | None = None,
        community: Interactions | None = None,
        threads: int | None = None,
    ) -> None:
        self.experiments = {one.name: one for one in Roster(experiments).experiments}
        self.filters = dict(filters or {})
        self._folders, self._community = dict(folders), community
        self._threads = threads
        self._arms = {
            (one.name, arm): self._model_of(one, arm)
            for one in experiments
            for arm in one.arm_names
        }
        if idle := set(self._folders) - {DEFAULT, *self._arms.values()}:
            raise ConfigError(f"No experiment has an arm {min(idle)!r}, so nobody would get it.")
        self.models = {name: self._load(name) for name in self._folders}
        self._gone: set[str] = set()

    def __getitem__(self, name: str) -> ServedModel:
        return self.models[name]

    def model_of(self, experiment: str, arm: str) -> str:
        """The name of the model of an experiment's arm."""
        return self._arms[experiment, arm]

    def assign(self, experiment: Experiment, user: str, at: datetime) -> str | None:
        """The arm of a user, or None: not running then, or the user takes no part."""
        running = experiment.start <= at < experiment.end
        return arm_of(experiment, user) if running else None

    def newer(self, *, tried: Mapping[str, str]) -> dict[str, ServedModel | str]:
        """Load what lies in other versions than those served; for a thread.

        Parameters
        ----------
        tried
            What could not be loaded, by name, as this told it; it is not tried again until a file
            changes.

        Returns
        -------
        dict
            By name: the model; or, if it cannot be loaded, what lies there. The one that is served
            goes on.
        """
        found: dict[str, ServedModel | str] = {}
        for name, folder in self._folders.items():
            version = version_of(folder)
            self._note_whether_gone(name, gone=version is None)
            if version is None or version == self.models[name].version:
                continue
            lies = f"{version} {_state(folder)}"
            if lies == tried.get(name):
                continue
            try:
                found[name] = self._load(name)
            except Exception as error:
                ours = isinstance(error, CoterieError | OSError)
                facts = {"model": name, "why": str(error)}
                log.error("the new version is not served", extra=facts, exc_info=not ours)
                found[name] = lies
        return found

    def _note_whether_gone(self, name: str, *, gone: bool) -> None:
        """Tell the operator once that a folder cannot be read, and once that it is back."""
        if gone == (name in self._gone):
            return
        facts = {"model": name, "folder": str(self._folders[name])}
        if gone:
            self._gone.add(name)
            facts["served"] = self.models[name].version
            log.warning("the model's folder is gone or unreadable; its loaded version is served on",
                        extra=facts)  # fmt: skip
        else:
            self._gone.remove(name)
            log.info("the model's folder is back", extra=facts)

    def _load(self, name: str) -> ServedModel:
        return load(
            self._folders[name],
            name=name,
            filters=self.filters,
            community=self._community,
            threads=self._threads,
        )

    def _model_of(self, experiment: Experiment, arm: str) -> str:
        if arm in self._folders:
            return arm
        if arm == experiment.arm_names[0]:
            return DEFAULT
        given = ", ".join(name for name in self._folders if name != DEFAULT) or "none"
        raise ConfigError(
            f"The arm {arm!r} of {experiment.name!r} has no model; give --arm {arm}=MODEL. Models "
            f"were given for: {given}."
        )


def _state(folder: Path) -> str:
    """Sizes and times of the files; repairing one may leave the manifest, so the version, alone."""
    try:
        seen = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:  # it is being replaced
        return ""
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in seen)
