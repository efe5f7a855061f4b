"""VAE recommenders in which users help each other on purpose.

The names below are imported on first use, so that ``import coterie`` stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coterie.data.interactions import Interactions
    from coterie.data.readers import read_interactions
    from coterie.data.splits import strong_generalization
    from coterie.evaluation.protocol import evaluate
    from coterie.recommendations import Recommendations
    from coterie.recommender import Recommender
    from coterie.training.loop import train

    __version__: str

__all__ = [
    "Interactions",
    "Recommendations",
    "Recommender",
    "__version__",
    "evaluate",
    "read_interactions",
    "strong_generalization",
    "train",
]

_MODULE_OF = {
    "Interactions": "coterie.data.interactions",
    "Recommendations": "coterie.recommendations",
    "Recommender": "coterie.recommender",
    "evaluate": "coterie.evaluation.protocol",
    "read_interactions": "coterie.data.readers",
    "strong_generalization": "coterie.data.splits",
    "train": "coterie.training.loop",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("coterie")
    elif name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'coterie' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
