"""The report: one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import whole
from ..files import replacing
from .contents import contents
from .embedding import as_script_data

if TYPE_CHECKING:
    from ..communities import Partition, ResolutionProfile
    from ..graph import InteractionGraph
    from ..validation import ModuleEffect
    from .ablation_file import Curve

__all__ = ["MOST_EDGES", "page", "write_report"]

MOST_EDGES = 50_000

# In the order in which they stand in the page; a file uses what those before it define.
_SCRIPTS = ("tools.js", "data.js", "view.js", "charts.js", "panels.js", "main.js")


def write_report(
    graph: InteractionGraph,
    path: str | os.PathLike[str],
    *,
    partition: Partition | None = None,
    profile: ResolutionProfile | None = None,
    curves: Mapping[tuple[str, str], Curve] | None = None,
    effects: Sequence[ModuleEffect] | None = None,
    n_edges: int = MOST_EDGES,
) -> Path:
    """Writes a page to look at a graph and its modules; it works from disk, without a network.

    Args:
        graph: the graph.
        path: the file, whole or not at all.
        partition: modules of the graph's features.
        profile: what `resolution_profile` found, for a chart.
        curves: pair -> what `edges_required` found (or `read_ablation` read), for a chart.
        effects: what `ablate_modules` found, for the cards of the modules.
        n_edges: how many edges of each strength the page holds at most, the strongest of each pair;
            the page says how many were left out. Lists of a feature's strongest edges, heat maps
            and distributions are made from the whole graph.

    Returns:
        The file.

    Raises:
        InteractGraphError: a partition of another graph, or a path that cannot be written.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "report.html"
        >>> itg.write_report(graph, path, partition=itg.find_modules(graph, n_runs=2)).name
        'report.html'
    """
    n_edges = whole("n_edges", n_edges)
    data = contents(
        graph, partition, n_edges=n_edges, profile=profile, curves=curves, effects=effects
    )
    text = page(data)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def page(data: dict[str, Any]) -> str:
    """The page around its data.

    Its content security policy allows this one style sheet and this one script by their hashes,
    and no request at all.
    """
    assets = files(__package__) / "assets"
    style = (assets / "style.css").read_text(encoding="utf-8")
    parts = [(assets / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    holes = {
        "{{policy}}": f"default-src 'none'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; img-src data: blob:; base-uri 'none'; form-action 'none'",
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": as_script_data(data),
    }
    text = (assets / "page.html").read_text(encoding="utf-8")
    for hole, content in holes.items():  # the data come last: nothing in them is replaced
        text = text.replace(hole, content)
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
