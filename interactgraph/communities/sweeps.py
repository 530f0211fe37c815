"""Search by whole layers: an algorithm that fits layered graphs.

A layer has no edges inside, so given the modules of all other layers, all its features can move to
their best module at once and the quality can only rise. For layer l, with one-hot memberships H,

    score_l = sum_{k -> l} (W - null) H_k + sum_{l -> k} (W - null)' H_k,   module = argmax of a row

which is Barber's BRIM (Phys. Rev. E 76, 066102, 2007, section IV) extended from one bipartite block
to many. Sweeps over the layers until nothing moves alternate with merges of modules. A start has
about as many modules as features, and each round merges few disjoint pairs, best gain first:
merging everything that gains at once gets stuck in much poorer optima.

Products with one-hot matrices are sums of rows by module: one pass over the weights, whatever the
number of modules. They run wherever torch runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..sparse import is_sparse, nonzero
from . import constants
from .objective import Objective
from .threads import few_threads

__all__ = ["Sweeps"]

_TOLERANCE = 1e-13  # of quality, which is at most 1: smaller gains are rounding


class Sweeps:
    """Prepared once for a layered objective, then run from many starts."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._network = objective.network
        self._gamma = objective.resolution
        # Both orientations, rows contiguous: sums of rows are several times faster than of columns.
        self._by_source, self._by_target = [], []
        for term in objective.terms:
            sparse = is_sparse(term.weight)
            self._by_source.append(term.weight if sparse else term.weight.T.contiguous())
            self._by_target.append(term.weight if sparse else term.weight.contiguous())

    def run(self, seed: int, n_modules: int | None = None) -> np.ndarray:
        """Labels from a random start, `[nodes]`, -1 for nodes without edges.

        Args:
            seed: of the random start.
            n_modules: number of modules to start with, sweeps and merges only lower it; None: the
                number of features, at most 1024.
        """
        if n_modules is None:
            n_modules = min(self._network.n_nodes, constants.MOST_MODULES)
        generator = np.random.default_rng(seed)
        return self.polish(generator.integers(0, n_modules, self._network.n_nodes))

    def polish(self, labels: np.ndarray, merge: bool = True) -> np.ndarray:
        """Improves a partition until no sweep and no merge does; its quality never falls.

        Args:
            labels: module of each node, `[nodes]`; -1 is taken as 0.
            merge: whether modules may be merged.
        """
        if not self._objective.terms:
            return np.full(self._network.n_nodes, -1, np.int64)
        with few_threads(self._network):
            modules = self._sweep(self._split(labels))
            while merge:
                merged = self._merge(modules, _TOLERANCE)
                if merged is not None:
                    modules = self._sweep(merged)
                    continue
                # What is as good together is one module, unless a sweep takes it apart again.
                merged = self._merge(modules, -_TOLERANCE)
                swept = None if merged is None else self._sweep(merged)
                if swept is None or _number(swept) >= _number(modules):
                    break
                modules = swept
        joined = torch.cat(modules).cpu().numpy()
        return np.where(self._network.connected, joined, -1)

    def _split(self, labels: np.ndarray) -> list[Tensor]:
        _, dense = np.unique(np.maximum(labels, 0), return_inverse=True)
        layers = range(len(self._network.layer_sizes))
        return [self._objective.layer_labels(dense, layer) for layer in layers]

    def _scores(self, layer: int, modules: list[Tensor], n: int) -> Tensor:
        """What each feature of a layer would contribute in each module, `[n, features]`."""
        score = self._objective.terms[0].into.new_zeros(n, len(modules[layer]))
        for k, term in enumerate(self._objective.terms):
            if term.target == layer:
                rows, near, far, end = self._by_source[k], term.into, term.out, term.source
            elif term.source == layer:
                rows, near, far, end = self._by_target[k], term.out, term.into, term.target
            else:
                continue
            if is_sparse(rows):
                targets, sources, values = nonzero(rows)
                features, others = (
                    (targets, sources) if term.target == layer else (sources, targets)
                )
                places = modules[end][others] * score.shape[1] + features
                score.view(-1).index_add_(0, places, values)
            else:
                score.index_add_(0, modules[end], rows)
            expected = far.new_zeros(n).index_add_(0, modules[end], far)
            score.addr_(expected, near, alpha=-self._gamma)
        return score

    def _sweep(self, modules: list[Tensor]) -> list[Tensor]:
        """Moves whole layers, forward and back, until no feature moves."""
        n = int(max(int(m.max()) for m in modules if len(m))) + 1
        used = sorted({k for t in self._objective.terms for k in (t.source, t.target)})
        order = used + used[-2:0:-1]
        settled: set[int] = set()
        position = 0
        while len(settled) < len(used):
            layer = order[position % len(order)]
            position += 1
            score = self._scores(layer, modules, n)
            best, where = score.max(0)
            current = score.gather(0, modules[layer][None])[0]
            moves = best > current + _TOLERANCE / len(current)
            if bool(moves.any()):
                modules[layer] = torch.where(moves, where, modules[layer])
                settled = set()
            settled.add(layer)  # best for what the others are
        return modules

    def _merge(self, modules: list[Tensor], least: float) -> list[Tensor] | None:
        """Merges the disjoint pairs of modules that gain most, a few; None if none gains enough."""
        _, dense = torch.unique(torch.cat(modules), return_inverse=True)
        modules = list(dense.split([len(m) for m in modules]))
        n = int(dense.max()) + 1
        weight, gain = self._between(modules, n)
        joins = (gain > least) & (weight > 0)  # nothing between them is nothing in common
        rows, columns = torch.nonzero(joins.triu(1), as_tuple=True)
        if not len(rows):
            return None
        order = torch.argsort(gain[rows, columns], descending=True, stable=True).cpu()
        target = np.arange(n)
        free = np.ones(n, bool)
        left = max(1, int(constants.MERGED * n))
        pairs = torch.stack([rows, columns], 1).cpu()[order].numpy()
        for a, b in pairs:
            if free[a] and free[b]:
                target[b] = a
                free[a] = free[b] = False
                left -= 1
                if not left:
                    break
        mapping = torch.as_tensor(target, device=dense.device)
        return [mapping[m] for m in modules]

    def _between(self, modules: list[Tensor], n: int) -> tuple[Tensor, Tensor]:
        """Weight between two modules, and what merging them adds to the quality, `[n, n]` each."""
        weight = self._objective.terms[0].into.new_zeros(n, n)
        null = torch.zeros_like(weight)
        for k, term in enumerate(self._objective.terms):
            into, out = modules[term.target], modules[term.source]
            if is_sparse(term.weight):
                rows, columns, values = nonzero(term.weight)
                weight.view(-1).index_add_(0, out[columns] * n + into[rows], values)
            else:
                grouped = term.weight.new_zeros(n, len(into)).index_add_(0, out, self._by_source[k])
                weight.index_add_(1, into, grouped)
            null_into = term.into.new_zeros(n).index_add_(0, into, term.into)
            null_out = term.out.new_zeros(n).index_add_(0, out, term.out)
            null.addr_(null_out, null_into, alpha=self._gamma)
        weight, null = weight + weight.T, null + null.T
        return weight, weight - null


def _number(modules: list[Tensor]) -> int:
    return len(torch.unique(torch.cat(modules)))
