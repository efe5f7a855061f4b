"""How large the public data sets are, as published: what a dry run reckons with."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Sizes:
    """Sizes of a data set under its protocol.

    Parameters
    ----------
    users, items, interactions
        After the protocol's filters; items as the models see them (those of the training users).
    download_bytes
        Of the files to fetch; approximate where ``source`` says so.
    raw_rows
        Events in the raw files.
    raw_line
        An event as it stands in the raw file: its length gives the size unpacked.
    extra_bytes
        Of an interaction's rating (4) and time (8) as we keep them, where the data has them.
    source
        Where these numbers come from.
    """

    users: int
    items: int
    interactions: int
    download_bytes: int
    raw_rows: int
    raw_line: str
    extra_bytes: int
    source: str

    @property
    def unpacked_bytes(self) -> int:
        """Of the events in their raw form, which are unpacked while they are read."""
        return self.raw_rows * (len(self.raw_line) + 1)


_LIANG = "Liang et al., WWW 2018, table 1"

SIZES: Mapping[str, Sizes] = MappingProxyType(
    {
        "ml-20m": Sizes(
            136_677,
            20_108,
            9_990_682,
            198_702_078,
            20_000_263,
            "69251,1136,3.5,1112484727",
            12,
            f"{_LIANG}; rows: GroupLens' description; archive: its length",
        ),
        "netflix": Sizes(
            463_435,
            17_769,
            56_900_000,
            700_000_000,
            100_480_507,
            "1488844,3,2005-09-06",
            12,
            f"{_LIANG}; rows: the prize's rules; archive: about, as commonly given",
        ),
        "msd": Sizes(
            571_355,
            41_140,
            33_600_000,
            500_000_000,
            48_373_586,
            "b80344d063b5ccb3212f76538f3d9e43d87dca9e\tSOAKIMP12A8C130995\t1",
            4,
            f"{_LIANG}; rows: the publisher's description; archive: about, as commonly given",
        ),
        "ml-1m": Sizes(
            6_034,
            3_497,
            575_228,
            5_917_549,
            1_000_209,
            "3020::1193::5::978300760",
            12,
            "counted in the split; archive: its length",
        ),
        "gowalla": Sizes(
            29_858,
            40_981,
            1_027_370,
            6_005_973,
            1_027_370,
            "20490",  # an item and the blank before it, in a line of its user's
            0,
            "He et al., SIGIR 2020, table 2; files: their length",
        ),
    }
)
