"""Known public data sets: where they are, how to know them, and the protocol of the literature."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from coterie.data.download import TRUST_FILE, download
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions, Progress
from coterie.data.raw import TrainTest, read_lightgcn
from coterie.data.readers import read_interactions
from coterie.errors import ConfigError, DataError

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set: its address and the checksum that its publisher gives, if any."""

    address: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Protocol:
    """How the literature evaluates on a data set.

    Parameters
    ----------
    kind
        ``strong-generalization`` (Liang et al. 2018) or ``given`` (a published train and test).
    held_out_users
        Users for validation, and as many for the test; 0 for a given pair.
    fold_in_fraction
        Share of a held-out user's history that the model sees.
    source
        Where the settings come from.
    """

    kind: Literal["strong-generalization", "given"]
    held_out_users: int
    fold_in_fraction: float
    source: str


@dataclass(frozen=True)
class DataSet:
    """A public data set: files, terms, filters and protocol.

    Parameters
    ----------
    name
        The short name, for example ``ml-20m``.
    title
        The name in prose.
    files
        What to download.
    options
        The literature's filters.
    protocol
        The literature's split.
    terms
        The conditions of use, in a few words; read the publisher's before use.
    """

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    options: PrepareOptions
    protocol: Protocol
    terms: str

    @property
    def is_pair(self) -> bool:
        """Whether it is published as train and test."""
        return self.protocol.kind == "given"

    @property
    def checksum_note(self) -> str | None:
        """What to say where a publisher gives no checksum; None where all files have one."""
        unknown = [file.name for file in self.files if file.checksum is None]
        if not unknown:
            return None
        return (
            f"No published checksum is known for {', '.join(unknown)}: the first download's "
            f"SHA-256 is recorded in {TRUST_FILE} beside it, and later ones must agree."
        )

    def fetch(self, folder: Path | str, *, show_progress: bool = True) -> Path:
        """Download the files into ``folder/name``; the archive's path, or that folder if several.

        Raises
        ------
        DownloadError
            See :func:`coterie.data.download.download`.
        """
        target = Path(folder).expanduser() / self.name
        paths = [
            download(file.address, target, checksum=file.checksum, show_progress=show_progress)
            for file in self.files
        ]
        return paths[0] if len(paths) == 1 else target

    def read(
        self,
        path: Path | str,
        *,
        options: PrepareOptions | None = None,
        progress: Progress | None = None,
    ) -> Interactions:
        """Read the downloaded archive or its folder, with the literature's filters by default."""
        return read_interactions(
            path, options=options or self.options, name=self.name, progress=progress
        )

    def read_pair(self, path: Path | str, *, progress: Progress | None = None) -> TrainTest:
        """Read a data set that is published as train and test.

        Raises
        ------
        DataError
            It is not published so.
        """
        if not self.is_pair:
            raise DataError(f"{self.title} is not published as train and test; split it instead.")
        return read_lightgcn(path, options=self.options, name=self.name, progress=progress)


def dataset(name: str) -> DataSet:
    """A known data set by its short name.

    Raises
    ------
    ConfigError
        It is not known; the message lists those that are.
    """
    if name not in DATASETS:
        raise ConfigError(f"There is no data set {name!r}; known are: {', '.join(DATASETS)}.")
    return DATASETS[name]


_POSITIVE = PrepareOptions(positive_threshold=4, min_user_items=5)
_GROUPLENS_TERMS = "Research use with acknowledgement; no redistribution without permission."
_LIANG = "Liang et al., WWW 2018, section 4.1"


def _strong(users: int, source: str = _LIANG) -> Protocol:
    return Protocol("strong-generalization", users, 0.8, source)


def _movielens(name: str, size: str, md5: str, protocol: Protocol) -> DataSet:
    file = RemoteFile(f"{GROUPLENS}/{name}.zip", f"md5:{md5}")
    title = f"MovieLens {size}"
    return DataSet(name, title, (file,), _POSITIVE, protocol, _GROUPLENS_TERMS)


# The MD5 sums are those that GroupLens publishes beside its archives (name.zip.md5).
_KNOWN = (
    _movielens(
        "ml-100k", "100K", "0e33842e24a9c977be4e0107933c0723",
        _strong(100, "about a tenth of the users, as for 1M"),
    ),
    _movielens(
        "ml-1m", "1M", "c4d9eecfca2ab87c1945afe126590906",
        _strong(600, "a tenth of the users; no common figure in the literature"),
    ),
    _movielens(
        "ml-10m", "10M", "ce571fd55effeba0271552578f2648bd",
        _strong(5_000, "as for 20M in proportion"),
    ),
    _movielens("ml-20m", "20M", "cd245b17a1ae2cc31bb14903e1204af3", _strong(10_000)),
    _movielens(
        "ml-25m", "25M", "6b51fb2759a8657d3bfcbfc42b592ada", _strong(10_000, "as for 20M")
    ),
    _movielens(
        "ml-32m", "32M", "d472be332d4daa821edc399621853b57", _strong(10_000, "as for 20M")
    ),
    DataSet(
        "netflix",
        "Netflix Prize",
        (RemoteFile("https://archive.org/download/nf_prize_dataset.tar/nf_prize_dataset.tar.gz"),),
        _POSITIVE,
        _strong(40_000),
        "Released for the Netflix Prize; withdrawn by its publisher, kept by an archive.",
    ),
    DataSet(
        "msd",
        "Million Song Dataset, Taste Profile",
        (
            RemoteFile(
                "http://millionsongdataset.com/sites/default/files/challenge/train_triplets.txt.zip"
            ),
        ),
        PrepareOptions(min_user_items=20, min_item_users=200),
        _strong(50_000),
        "Research use; The Echo Nest Taste Profile Subset.",
    ),
    DataSet(
        "gowalla",
        "Gowalla, the split published with LightGCN",
        tuple(RemoteFile(f"{LIGHTGCN}/gowalla/{part}.txt") for part in ("train", "test")),
        PrepareOptions(),
        Protocol("given", 0, 0.0, "He et al., SIGIR 2020; data of SNAP"),
        "Research use; collected by Cho et al. 2011 (SNAP).",
    ),
)  # fmt: skip

DATASETS: Mapping[str, DataSet] = MappingProxyType({known.name: known for known in _KNOWN})
