"""The search for rotations that make Jacobians sparse: tensors in, tensors out.

Minimised over orthogonal R_l, one for each layer, is the mean over pairs of layers of
S(X), X = R_y J_b R_x' with S a measure of sparsity that is averaged over many samples b, never
taken on a single one's rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .sparsity import SparsityMeasure

__all__ = ["PairJacobians", "Rotation", "rotated_squares", "search"]


@dataclass(frozen=True, eq=False)
class PairJacobians:
    """Jacobians of one layer pair at some samples, in the coordinates that are rotated.

    Attributes:
        source: source layer.
        target: target layer.
        jacobian: dy[b,i] / dz[b,s,j] for one target position of each row b, `[b, s, i, j]`.
        step: z - z0, `[b, s, j]`, where attributions are made sparse; None: Jacobians are.
    """

    source: str
    target: str
    jacobian: Tensor
    step: Tensor | None = None


def rotated_squares(
    pair: PairJacobians, r_source: Tensor, r_target: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Squares of what is to be sparse.

    For Jacobians each sample's own entries, `[b, s, i, j]`; for attributions their mean over
    samples, `[i, j]`, which is the square of the graph's `rms`.
    """
    jacobian = pair.jacobian if rows is None else pair.jacobian[rows]
    rotated = r_target @ jacobian @ r_source.mT
    if pair.step is None:
        return rotated.square()
    step = (pair.step if rows is None else pair.step[rows]) @ r_source.mT
    return (rotated * step[:, :, None, :]).sum(1).square().mean(0)


class Rotation(nn.Module):
    """An orthogonal matrix under torch's parametrisation, as a correction of a start."""

    def __init__(self, start: Tensor, map_name: str) -> None:
        super().__init__()
        eye = torch.eye(len(start), dtype=start.dtype, device=start.device)
        self.weight = nn.Parameter(eye.clone())
        self.register_buffer("start", start)
        # The trivialisation at identity keeps Cayley and the exponential well conditioned.
        parametrizations.orthogonal(self, "weight", orthogonal_map=map_name)
        with torch.no_grad():
            setattr(self, "weight", eye)  # noqa: B010

    def matrix(self) -> Tensor:
        """The orthogonal matrix, differentiable."""
        start = self.start
        assert isinstance(start, Tensor)
        weight = self.weight
        assert isinstance(weight, Tensor)
        return weight @ start


def search(
    pairs: Sequence[PairJacobians],
    starts: Mapping[str, Tensor],
    free: Sequence[str],
    measure: SparsityMeasure,
    *,
    eps: float = 1e-3,
    steps: int = 500,
    lr: float = 0.03,
    batch_size: int = 128,
    seed: int = 0,
    parametrisation: str = "matrix_exp",
    tick: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Gradient descent (Adam, cosine schedule) on minibatches of samples.

    Args:
        pairs: Jacobians of the pairs of layers that count.
        starts: layer -> orthogonal matrix to start from, or to stay at.
        free: layers whose matrix is learned.
        measure: of squares and eps.
        eps: below this share of the mean square, an entry counts as zero.
        steps: gradient steps.
        lr: largest step size.
        batch_size: samples of each step.
        seed: of the minibatches.
        parametrisation: "matrix_exp", "cayley" or "householder".
        tick: called after every step.

    Returns:
        Layer -> orthogonal matrix, and the loss after every step.
    """
    rotations = nn.ModuleDict({str(n): Rotation(starts[n_], parametrisation)
                               for n, n_ in enumerate(free)})  # fmt: skip
    number = {layer: str(n) for n, layer in enumerate(free)}
    # The scale of each pair, so that all count alike and eps is relative.
    with torch.no_grad():
        scales = [
            rotated_squares(pair, starts[pair.source], starts[pair.target]).mean() for pair in pairs
        ]
    scales = [scale.clamp_min(torch.finfo(scale.dtype).tiny) for scale in scales]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(rotations.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1), lr * 0.01)

    def current(layer: str) -> Tensor:
        if layer not in number:
            return starts[layer]
        module = rotations[number[layer]]
        assert isinstance(module, Rotation)
        return module.matrix()

    curve = []
    with torch.enable_grad():
        for _ in range(steps):
            matrices = {layer: current(layer) for layer in starts}
            loss = torch.zeros_like(scales[0])
            for pair, scale in zip(pairs, scales, strict=True):
                n = len(pair.jacobian)
                rows = (
                    torch.randperm(n, generator=generator)[:batch_size] if n > batch_size else None
                )
                squares = rotated_squares(pair, matrices[pair.source], matrices[pair.target], rows)
                loss = loss + measure(squares / scale, eps)
            loss = loss / len(pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            curve.append(float(loss.detach()))
            tick()
    with torch.no_grad():
        return {layer: current(layer).detach().clone() for layer in starts}, curve
