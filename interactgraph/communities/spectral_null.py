"""Networks with the same strengths and the same spectrum, but no modules.

Without skip connections hidden entries scatter around the product of two strengths independently.
What a block of a residual network adds is a product of matrices, whose entries are related even
where all weights are random: columns of W V go through the same V. Modules that were found without
an entry then predict it a little, in networks as they are initialised, too. How related entries
are, rows with rows and columns with columns, is what the singular values of the residuals
r = v / e - 1 say (v = sqrt(w), e its rank-one fit); that they are related *in groups* is said by
the singular vectors. A surrogate takes the singular values as they are and vectors at random,

    r' = Q_1 diag(s) Q_2',   Q_1, Q_2 uniform (Haar) orthonormal,

gives r' the values of r in its order (amplitude adjustment: Theiler et al., Physica D 58, 1992,
algorithm II), and w' = (e (1 + r'))^2. What the held-out test finds in it, it finds without
modules. Large singular values of real modules stay, but with random vectors the test makes little
of them: in planted residual networks z is 27 to 29, and 1 to 4 in their surrogates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .held_out import rank_one_fit
from .network import Block, Network

__all__ = ["surrogate"]


def surrogate(network: Network, seed: int) -> Network:
    """A network of the same strengths and spectrum whose singular vectors are random.

    Args:
        network: strengths, not weighted yet.
        seed: of the vectors.
    """
    draw = torch.Generator().manual_seed(seed)
    blocks = tuple(block._replace(weight=_rotated(block, draw)) for block in network.blocks)
    return Network(network.n_features, blocks)


def _rotated(block: Block, draw: torch.Generator) -> Tensor:
    root = block.weight.sqrt()
    known = torch.ones_like(root, dtype=torch.bool)
    if block.unknown is not None:
        known = ~block.unknown
    expected = rank_one_fit(root, known)
    known = known & (expected > 0)
    residual = torch.where(known, root / expected.clamp_min(1e-300) - 1, 0)
    values = torch.linalg.svdvals(residual)
    into, out = (_orthonormal(n, len(values), draw).to(residual) for n in residual.shape)
    order = ((into * values) @ out.mT)[known].argsort()
    placed = torch.empty_like(order, dtype=residual.dtype)
    placed[order] = residual[known].sort().values
    residual[known] = placed
    return torch.where(known, (expected * (1 + residual)).square(), block.weight)


def _orthonormal(n: int, columns: int, draw: torch.Generator) -> Tensor:
    """Orthonormal columns, uniformly distributed (Mezzadri, Notices of the AMS 54, 2007)."""
    q, r = torch.linalg.qr(torch.randn(n, columns, generator=draw, dtype=torch.float64))
    return q * r.diagonal().sign()
