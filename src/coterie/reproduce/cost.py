"""What a reproduction will cost on this machine, from what is measured of it."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.comparison.contestants import Contestant
from coterie.data.datasets import DataSet
from coterie.reproduce.probe import ModelCost, Probe, read_seconds, split_bytes
from coterie.reproduce.sizes import Sizes
from coterie.training.config import RunContext


@dataclass(frozen=True)
class Cost:
    """What a whole reproduction costs here.

    Parameters
    ----------
    download_bytes
        To fetch; 0 if the files are given.
    unpacked_bytes
        While reading, in the temporary folder.
    split_bytes
        On disk, to stay.
    read_seconds
        Reading and filtering.
    models
        Each model, with one seed.
    n_seeds
        How often each is trained.
    source
        Where the data set's sizes come from.
    """

    download_bytes: int
    unpacked_bytes: int
    split_bytes: int
    read_seconds: float
    models: tuple[ModelCost, ...]
    n_seeds: int
    source: str

    @property
    def disk_bytes(self) -> int:
        """Most that is on disk at once."""
        return self.download_bytes + self.unpacked_bytes + self.split_bytes

    @property
    def peak_bytes(self) -> int:
        """Most memory of any model."""
        return max(model.peak_bytes for model in self.models)

    @property
    def seconds(self) -> float:
        """Everything but the download."""
        return self.read_seconds + self.n_seeds * sum(model.seconds for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "disk_bytes": self.disk_bytes,
            "peak_bytes": self.peak_bytes,
            "seconds": self.seconds,
        }


def estimate(
    data: DataSet,
    sizes: Sizes,
    contestants: Sequence[Contestant],
    *,
    n_seeds: int,
    cuts: tuple[int, ...],
    context: RunContext,
    given: bool,
    tell: Callable[[str], None] = lambda stage: None,
) -> Cost:
    """Measure what the reproduction of a data set of these sizes will cost on this machine.

    Parameters
    ----------
    data, sizes
        The data set with its protocol, and how large it is.
    contestants
        The models.
    n_seeds
        How often each is trained.
    cuts
        Of the metrics.
    context
        Device and precision.
    given
        Whether the raw files are there already.
    tell
        Called with what is measured next.
    """
    with tempfile.TemporaryDirectory(prefix="coterie-probe-") as name:
        folder = Path(name)
        tell("measuring how fast files are read")
        reading = read_seconds(data, sizes, folder)
        probe = Probe(data, sizes, folder, cuts=cuts, context=context)
        models = []
        for one in contestants:
            tell(f"measuring {one.name}")
            models.append(probe.cost(one))
        return Cost(
            download_bytes=0 if given else sizes.download_bytes,
            unpacked_bytes=sizes.unpacked_bytes,
            split_bytes=split_bytes(data, sizes, folder),
            read_seconds=reading,
            models=tuple(models),
            n_seeds=n_seeds,
            source=sizes.source,
        )
