"""interactgraph finds the modules of a trained neural network.

Names are loaded on first use, so that the command line answers without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    # the main job
    "interaction_graph": "run",
    "InteractionGraph": "graph",
    "load": "graph",
    "top_samples": "samples",
    "compare": "graph",
    "differences": "graph",
    # modules
    "find_modules": "communities",
    "bootstrap": "communities",
    "Partition": "communities",
    # output
    "export": "exporters",
    # rooms of the house
    "features": "features",
    "zoo": "zoo",
    # what can go wrong
    "InteractGraphError": "errors",
    "InteractGraphWarning": "errors",
}

__all__ = [
    "InteractGraphError",
    "InteractGraphWarning",
    "InteractionGraph",
    "Partition",
    "__version__",
    "bootstrap",
    "compare",
    "differences",
    "export",
    "features",
    "find_modules",
    "interaction_graph",
    "load",
    "top_samples",
    "zoo",
]

if TYPE_CHECKING:
    from . import features, zoo
    from .communities import Partition, bootstrap, find_modules
    from .errors import InteractGraphError, InteractGraphWarning
    from .exporters import export
    from .graph import InteractionGraph, compare, differences, load
    from .run import interaction_graph
    from .samples import top_samples


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'interactgraph' has no attribute {name!r}")
    module = import_module(f".{_HOME[name]}", __name__)
    value = module if _HOME[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
