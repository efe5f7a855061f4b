"""Log of interactions to frozen, memory-mapped data sets and splits."""

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.raw import TrainTest, read_lightgcn
from coterie.data.readers import read_interactions, read_item_table, read_liang_split

__all__ = [
    "IdMap",
    "Interactions",
    "PrepareOptions",
    "TrainTest",
    "read_interactions",
    "read_item_table",
    "read_liang_split",
    "read_lightgcn",
]
