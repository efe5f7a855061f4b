"""The parts of a split: what to train on, and users to validate and to test on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from coterie.data.interactions import Interactions
from coterie.errors import ArtifactError, DataError
from coterie.files import atomic_folder, sha256
from coterie.manifest import MANIFEST, read_manifest, write_manifest

FORMAT = "coterie-split"
FORMAT_VERSION = 1
PARTS = (
    "train",
    "validation_fold_in",
    "validation_held_out",
    "test_fold_in",
    "test_held_out",
)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is known of some users (``fold_in``) and what is to be predicted (``held_out``).

    Both hold the same users, row by row, over the same items; no pair stands in both.
    """

    fold_in: Interactions
    held_out: Interactions

    def __post_init__(self) -> None:
        known, hidden = self.fold_in, self.held_out
        if (known.n_users, known.n_items) != (hidden.n_users, hidden.n_items):
            raise DataError(
                f"fold_in and held_out must have the same users and items, got {known.n_users} x "
                f"{known.n_items} and {hidden.n_users} x {hidden.n_items}."
            )

    @property
    def n_users(self) -> int:
        """Users, with or without held-out items."""
        return self.fold_in.n_users

    def check(self) -> "HeldOut":
        """Return ``self``, or raise :class:`DataError` if users differ or a pair is in both."""
        if self.fold_in.user_ids != self.held_out.user_ids:
            raise DataError("fold_in and held_out must have the same users in the same order.")
        if self.fold_in.item_ids != self.held_out.item_ids:
            raise DataError("fold_in and held_out must have the same items in the same order.")
        known, hidden = _pair_keys(self.fold_in), _pair_keys(self.held_out)
        n_both = len(np.intersect1d(known, hidden, assume_unique=True))
        if n_both:
            raise DataError(f"{n_both} user-item pairs stand both in the fold-in and held out.")
        return self


@dataclass(frozen=True, eq=False)
class Split:
    """Training data, and users to validate and to test on.

    Parameters
    ----------
    train, validation, test
        The parts; all over the items of ``train``.
    protocol
        ``"strong-generalization"``, ``"weak-generalization"``, ``"leave-one-out"``, ``"given"``,
        ``"temporal"`` or ``"temporal-user"``.
    settings
        What made the split (fractions, seed, what was dropped); only values that JSON can hold.
    """

    train: Interactions
    validation: HeldOut
    test: HeldOut
    protocol: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in self._parts().items():
            if part.n_items != self.train.n_items:
                raise DataError(
                    f"{name} has {part.n_items} items, train {self.train.n_items}; "
                    "all parts need the same."
                )

    def __repr__(self) -> str:
        return (
            f"Split({self.protocol!r}, train={self.train!r}, {self.validation.n_users} validation "
            f"users, {self.test.n_users} test users)"
        )

    def check(self) -> "Split":
        """Return ``self``, or raise :class:`DataError` if items differ or a part leaks."""
        for held_out in (self.validation, self.test):
            held_out.check()
            if held_out.fold_in.item_ids != self.train.item_ids:
                raise DataError("All parts of a split need train's items in train's order.")
        return self

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a folder: manifest, and one data set folder per part (items' table in train's)."""
        path = Path(path)
        with atomic_folder(path, overwrite=overwrite) as folder:
            hashes = {}
            for name, part in self._parts().items():
                saved = part if name == "train" else replace(part, items=None)
                saved.save(folder / name)
                hashes[name] = sha256(folder / name / MANIFEST)
            facts = {"protocol": self.protocol, "settings": self.settings, "parts": hashes}
            write_manifest(folder, FORMAT, FORMAT_VERSION, facts)
        return path

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = False, test: bool = True) -> "Split":
        """Open a split folder; the arrays are memory-mapped, the ids read on first use.

        Without ``test`` no file of the test part is touched, and no users take its place: for work
        that must not see it, such as tuning.

        Raises
        ------
        ArtifactError
            A part is missing, truncated, of another split or, where ``verify``, edited.
        """
        path = Path(path)
        manifest = read_manifest(
            path, FORMAT, FORMAT_VERSION, made_by="coterie split", verify=verify
        )
        hashes = _facts(path, manifest)
        parts = {}
        for name in PARTS if test else PARTS[:3]:
            parts[name] = Interactions.open(path / name, verify=verify)
            if sha256(path / name / MANIFEST) != hashes.get(name):
                raise ArtifactError(
                    f"{path / name} is not the part that this split was saved with."
                )
        train = parts.pop("train")
        shared = {name: _with_items_of(train, part, path / name) for name, part in parts.items()}
        try:
            validation = HeldOut(shared["validation_fold_in"], shared["validation_held_out"])
            if test:
                tested = HeldOut(shared["test_fold_in"], shared["test_held_out"])
            else:
                nobody = train.rows(np.empty(0, dtype=np.int64))
                tested = HeldOut(nobody, nobody)
        except DataError as error:
            raise ArtifactError(f"{path} is damaged: {error}") from error
        return cls(train, validation, tested, manifest["protocol"], manifest["settings"])

    def _parts(self) -> dict[str, Interactions]:
        validation, test = self.validation, self.test
        parts = (self.train, validation.fold_in, validation.held_out, test.fold_in, test.held_out)
        return dict(zip(PARTS, parts, strict=True))


def _facts(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The hashes of the parts' manifests, after a look at the types of all facts."""
    for key, type_ in (("protocol", str), ("settings", dict), ("parts", dict)):
        if not isinstance(manifest.get(key), type_):
            raise ArtifactError(
                f"{path} is damaged: {key!r} in {MANIFEST} must be a {type_.__name__}, "
                f"got {manifest.get(key)!r}."
            )
    hashes: dict[str, Any] = manifest["parts"]
    return hashes


def _pair_keys(data: Interactions) -> np.ndarray:
    keys: np.ndarray = data.user_of_each() * data.n_items + data.indices
    return keys


def _with_items_of(train: Interactions, part: Interactions, path: Path) -> Interactions:
    if part.n_items != train.n_items:
        raise ArtifactError(f"{path} has {part.n_items} items, train has {train.n_items}.")
    shared = replace(part, item_ids=train.item_ids, items=train.items)
    shared.__dict__["n_items"] = train.n_items  # known from the manifest; spares reading the ids
    return shared
