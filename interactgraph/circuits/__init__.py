"""Attribution graphs of prompts (circuit-tracer, Neuronpedia) and the supernodes in them."""

from .attribution_graph import AttributionGraph
from .baselines import complete_link, undirected_leiden
from .reading import load_attribution_graph
from .suggest import AMONG, Supernode, supernodes
from .tables import as_interaction_graph, node_table
from .writing import save_supernodes

__all__ = [
    "AMONG",
    "AttributionGraph",
    "Supernode",
    "as_interaction_graph",
    "complete_link",
    "load_attribution_graph",
    "node_table",
    "save_supernodes",
    "supernodes",
    "undirected_leiden",
]
