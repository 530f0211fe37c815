"""The formulas in a few lines of plain autograd, slow enough to be believed at sight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def attributions(
    function: Callable[[Tensor], Tensor], z: Tensor, z0: Tensor, nodes: int | None
) -> Tensor:
    """A[b,t,i,j] of a function [b,s,j] -> [b,t,i]; nodes=None is gradient x activation."""
    u, w = ([1.0], [1.0]) if nodes is None else np.polynomial.legendre.leggauss(nodes)
    if nodes is not None:
        u, w = (u + 1) / 2, w / 2
    shape = function(z).shape
    a = torch.zeros(*shape, z.shape[2], dtype=z.dtype)
    for node, weight in zip(u, w, strict=True):
        point = (z0 + float(node) * (z - z0)).detach().requires_grad_(True)
        y = function(point)
        for b in range(shape[0]):
            for t in range(shape[1]):
                for i in range(shape[2]):
                    (gradient,) = torch.autograd.grad(y[b, t, i], point, retain_graph=True)
                    a[b, t, i] += float(weight) * ((z - z0) * gradient)[b].sum(0).detach()
    return a


def strengths(a: list[Tensor], masks: list[Tensor] | None = None) -> dict[str, np.ndarray]:
    """Strengths and standard errors from A of several batches, sample by sample."""
    squares, sizes, signed, counts, largest = [], [], [], [], []
    for number, batch in enumerate(a):
        for b, sample in enumerate(batch):
            keep = sample if masks is None else sample[masks[number][b]]
            counts.append(len(keep))
            squares.append((keep**2).sum(0).numpy())
            sizes.append(keep.abs().sum(0).numpy())
            signed.append(keep.sum(0).numpy())
            if len(keep):
                largest.append(keep.abs().amax(0).numpy())
    n = np.array(counts, dtype=float)
    result = {"max": np.max(largest, 0)}
    for name, sums in (("rms", squares), ("mean_abs", sizes), ("mean", signed)):
        x = np.stack(sums)
        mean = x.sum(0) / n.sum()
        spread = ((x - mean * n[:, None, None]) ** 2).sum(0)
        error = np.sqrt(len(n) / (len(n) - 1) * spread) / n.sum()
        if name == "rms":
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.where(mean > 0, error / (2 * np.sqrt(mean)), 0)
            mean = np.sqrt(mean)
        result[name], result[name + "_error"] = mean, error
    return result
