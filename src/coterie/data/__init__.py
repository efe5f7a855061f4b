"""Log of interactions to frozen, memory-mapped data sets and splits."""

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.data.prepare import PrepareOptions
from coterie.data.readers import read_interactions, read_item_table

__all__ = [
    "IdMap",
    "Interactions",
    "PrepareOptions",
    "read_interactions",
    "read_item_table",
]
