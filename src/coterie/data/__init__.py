"""Log of interactions to frozen, memory-mapped data sets and splits."""

from coterie.data.datasets import DATASETS, DataSet, dataset
from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.parts import HeldOut, Split
from coterie.data.prepare import PrepareOptions
from coterie.data.raw import TrainTest, read_lightgcn
from coterie.data.readers import read_interactions, read_item_table, read_liang_split
from coterie.data.splits import (
    given_split,
    leave_one_out,
    strong_generalization,
    temporal,
    temporal_per_user,
    weak_generalization,
)

__all__ = [
    "DATASETS",
    "DataSet",
    "HeldOut",
    "IdMap",
    "Interactions",
    "PrepareOptions",
    "Split",
    "TrainTest",
    "dataset",
    "given_split",
    "leave_one_out",
    "read_interactions",
    "read_item_table",
    "read_liang_split",
    "read_lightgcn",
    "strong_generalization",
    "temporal",
    "temporal_per_user",
    "weak_generalization",
]
