"""How a strength becomes the weight that the modularity sees.

Strengths are heavy-tailed, and a few strong features carry most of a block. Each function takes a
block and returns weights of the same shape; s_j and t_i are the sums of a column and of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..sparse import at_ends, map_values, sums, tidy, values_of, with_values
from . import constants
from .network import Block, Network

__all__ = ["FORMULAS", "Score", "Weighed", "Weighting", "normalise"]


class Score(NamedTuple):
    """What hidden edges say about the modules of one resolution.

    Attributes:
        excess: of roots inside modules over what strengths explain, as a share of all; the mean
            over blocks and folds.
        z: of that, see `held_out.Tally`; NaN where no hidden edge is inside a module.
        energy_z: the same of energies.
    """

    excess: float
    z: float
    energy_z: float


class Weighed(NamedTuple):
    """A network whose strengths became weights.

    Attributes:
        network: the weights.
        weighting: that was used, block by block.
        decided: what it was decided by.
        scores: what hidden edges say at each resolution, where that was measured on the way.
    """

    network: Network
    weighting: Weighting
    decided: dict[str, float | str]
    scores: dict[float, Score] | None = None


@dataclass(frozen=True)
class Weighting:
    """One way to weigh, the same for every network.

    Attributes:
        name: what it is called.
        block: block of strengths -> weights, same shape.
    """

    name: str
    block: Callable[[Block], Tensor]

    def weigh(self, network: Network, seed: int = 0) -> Weighed:
        """Turns the strengths of a network into weights.

        Args:
            network: strengths.
            seed: of what is decided by held-out edges.
        """
        return Weighed(keep_connected(network.map(self.block), network), self, {})


def keep_connected(weighted: Network, network: Network) -> Network:
    """Gives features that lost all their edges to a weighting faint ones back.

    Weightings that cut leave some features without any. They follow their strongest neighbours,
    and are too faint to move those.
    """
    device = network.blocks[0].weight.device if network.blocks else None
    lost = torch.as_tensor(network.connected & ~weighted.connected, device=device)
    if not lost.any():
        return weighted
    kept = {(block.source, block.target): block.weight for block in weighted.blocks}
    offsets = network.offsets

    def restore(block: Block) -> Tensor:
        weight = kept.get((block.source, block.target), torch.zeros_like(block.weight))
        into, out = (lost[offsets[k] : offsets[k + 1]] for k in (block.target, block.source))
        faint = root_normalised(block)
        of_rows, of_columns = at_ends(faint, into, out)
        faint = with_values(faint, values_of(faint) * (of_rows | of_columns).to(weight.dtype))
        total, given = values_of(weight).sum(), values_of(faint).sum()
        scale = constants.FAINT * total / given if total > 0 and given > 0 else 1.0
        return tidy(weight + scale * faint)

    return network.map(restore)


def raw(block: Block) -> Tensor:
    """The strength itself."""
    return block.weight


def square_root(block: Block) -> Tensor:
    """sqrt(w): halves the weight of the tail on a logarithmic scale."""
    return map_values(block.weight, torch.sqrt)


def logarithmic(block: Block) -> Tensor:
    """log10(w / median) where that is positive, the median taken over the edges that are there."""
    values = values_of(block.weight)
    edges = values[values > 0]
    logs = torch.where(values > 0, (values / edges.median()).log10(), torch.zeros_like(values))
    return with_values(block.weight, logs.clamp_min(0))


def strength_normalised(block: Block) -> Tensor:
    """Divided by the root of both sums, w / sqrt(s t): what share of the features' strength it is.

    The adjacency of the symmetrically normalised bipartite Laplacian.
    """
    return normalise(block.weight)


def energy(block: Block) -> Tensor:
    """As `strength_normalised`, of energies: squares of amplitudes (`Block.power`)."""
    return normalise(map_values(block.weight, lambda values: values**block.power))


def root_normalised(block: Block) -> Tensor:
    """As `strength_normalised`, with sqrt(w) and its sums in place of w."""
    return normalise(map_values(block.weight, torch.sqrt))


def pointwise_mutual_information(block: Block) -> Tensor:
    """log(w / (s t / total)) where that is positive."""
    return positive_information(block.weight)


def information(block: Block) -> Tensor:
    """Positive log ratio of roots to what strengths explain, times a power of the latter.

    With v = sqrt(w) and e = s t / total from its sums: log(v / (5/4 e)) where positive, times
    e^0.35. Between pointwise mutual information (no power), which counts the edges of the weakest
    features as much as those of the strongest, and modularity of roots (power 1).
    """
    matrix = map_values(block.weight, torch.sqrt)
    root, expected = values_of(matrix), _expected(matrix)
    ratio = torch.where(expected > 0, root / (1.25 * expected), torch.zeros_like(root))
    return with_values(matrix, ratio.clamp_min(1).log() * expected**0.35)


def sharpened(block: Block) -> Tensor:
    """As `strength_normalised`, with w^1.5 and 0.3 mean strengths added to every sum.

    The addition keeps the weakest features from counting as much as others (Amini et al., Annals of
    Statistics 41, 2013, on regularised spectral clustering).
    """
    weight = map_values(block.weight, lambda values: values**1.5)
    of_rows, of_columns = sums(weight)
    into, out = at_ends(
        weight, of_rows + 0.3 * of_rows.mean(), of_columns + 0.3 * of_columns.mean()
    )
    return with_values(weight, values_of(weight) / (into * out).sqrt())


def normalise(weight: Tensor) -> Tensor:
    """Divides by the roots of row and column sums; zero where a feature has no strength."""
    into, out = at_ends(weight, *map(_inverse_root, sums(weight)))
    return with_values(weight, values_of(weight) * into * out)


def _inverse_root(strength: Tensor) -> Tensor:
    return torch.where(strength > 0, strength.rsqrt(), torch.zeros_like(strength))


def positive_information(weight: Tensor) -> Tensor:
    """Logarithm of w total / (s t) where positive."""
    values, expected = values_of(weight), _expected(weight)
    ratio = torch.where(expected > 0, values / expected, torch.zeros_like(values))
    return with_values(weight, ratio.clamp_min(1).log())


def _expected(weight: Tensor) -> Tensor:
    """S t / total of every entry, in the order of `values_of`."""
    into, out = at_ends(weight, *sums(weight))
    return into * out / values_of(weight).sum()


FORMULAS: dict[str, Weighting] = {
    name: Weighting(name, formula)
    for name, formula in {
        "raw": raw,
        "square_root": square_root,
        "logarithmic": logarithmic,
        "strength_normalised": strength_normalised,
        "energy": energy,
        "root_normalised": root_normalised,
        "pmi": pointwise_mutual_information,
        "information": information,
        "sharpened": sharpened,
    }.items()
}
