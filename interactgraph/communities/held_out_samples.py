"""Samples held out as well as edges: do modules of some samples hold on others?

Where every sample has features of its own, as sentences have that switch on features of a
dictionary, features of one sample drive each other and nothing else: they are modules of the graph
over all samples, on hidden edges too, and a list of the samples. Here modules are found without
part of the samples, from part of the edges, and judged by the other edges of the other samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..graph import InteractionGraph
from .held_out import Tally, folds_of, modules_of
from .mean_graph import mean_graph
from .network import Network
from .self_edges import read_network
from .significance import STANDARD_NORMAL, HeldOutTest, NullScores
from .weighting import FORMULAS

__all__ = ["held_out_samples_test"]


def held_out_samples_test(
    folds: Sequence[InteractionGraph],
    strength: str | None = None,
    resolution: float = 1.0,
    *,
    self_edges: str = "auto",
    n_folds: int = 5,
    n_starts: int = 5,
    seed: int = 0,
    null: NullScores = STANDARD_NORMAL,
) -> HeldOutTest:
    """The held-out test with modules of some samples and hidden entries of others.

    Args:
        folds: graphs over disjoint parts of the samples, two or more.
        strength: which; None: the graphs' first.
        resolution: of the layered objective the modules are found with.
        self_edges: see `find_modules`.
        n_folds: rounds; each hides this part of the entries, and of the samples (half of them
            where there are two folds).
        n_starts: random starts of the search in each round.
        seed: of the rounds and the starts.
        null: what z is where there are no modules.

    Returns:
        z and p as of `held_out_test`; NaN where nothing could be tested: features that are alive
        on the hidden samples are dead on all others.
    """
    n_parts = min(len(folds), n_folds)
    parts = [folds[k::n_parts] for k in range(n_parts)]
    tally = Tally(contrasted=True)
    for number in range(n_folds):
        held = number % n_parts
        others = [fold for k, part in enumerate(parts) if k != held for fold in part]
        seen, judged = _same_blocks(
            *(
                read_network(mean_graph(each), strength, None, self_edges)[0]
                for each in (others, parts[held])
            )
        )
        if not seen.blocks:
            continue
        (fold,), (hidden,) = (folds_of(each, n_folds, seed, [number]) for each in (seen, judged))
        first = 1000 * seed + n_starts * number
        found = modules_of(
            fold, FORMULAS["root_normalised"], resolution, range(first, first + n_starts)
        )
        if found is not None:
            tally.add_fold(judged, hidden, *found)
    return null.test(tally.z_score)


def _same_blocks(one: Network, other: Network) -> tuple[Network, Network]:
    """Both with the blocks that both have, so that the same entries are hidden in both."""
    pairs = [
        (a, b)
        for a in one.blocks
        for b in other.blocks
        if (a.source, a.target) == (b.source, b.target)
    ]
    blocks: tuple[list, list] = ([], [])
    for a, b in pairs:
        known = [block.unknown for block in (a, b) if block.unknown is not None]
        unknown = torch.stack(known).any(0) if known else None
        blocks[0].append(a._replace(unknown=unknown))
        blocks[1].append(b._replace(unknown=unknown))
    return (
        Network(one.n_features, tuple(blocks[0])),
        Network(other.n_features, tuple(blocks[1])),
    )
