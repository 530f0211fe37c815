"""Edges ranked by taking away, again and again, those that the output misses least."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import number, whole
from ..errors import InteractGraphError
from ..model import prepared
from .ablation import PairAblation, Piece, check_scores, top_edges
from .measures import Measure, check_measure, take

__all__ = ["greedy_ranking"]


def greedy_ranking(
    pair: PairAblation,
    scores: Tensor,
    *,
    measure: str | Measure = "log_agreement",
    n_start: int = 400,
    share: float = 0.06,
    max_samples: int = 512,
    progress: bool = True,
) -> Tensor:
    """Backward elimination of edges by their effect on the model's output.

    In every round the effect of taking away each edge that is left is computed exactly, through
    the segment and the rest of the model; the share of edges that matter least goes, then the
    effects are computed again, because two edges can stand in for each other.

    Args:
        pair: the layer pair, on the data that the effect is measured on.
        scores: a first ranking, `[i, j]`.
        measure: smooth, more is better.
        n_start: edges that elimination starts with, the first of `scores`; the others keep their
            order, behind these.
        share: share of the remaining edges that goes in one round, at least one.
        max_samples: samples that the effect is measured on, the first of the data.
        progress: show a progress bar.

    Returns:
        Scores `[i, j]`: an edge that went later has a higher one.

    Raises:
        InteractGraphError: a share or number that makes no sense.
    """
    n_start = whole("greedy ranking: n_start", n_start)
    max_samples = whole("greedy ranking: max_samples", max_samples)
    if not 0 < number("greedy ranking: share", share) < 1:
        raise InteractGraphError(f"greedy ranking: share={share} must be between 0 and 1")
    scores = check_scores(scores, (pair.n_targets, pair.n_sources))
    chosen = check_measure(measure)
    n_start = min(n_start, scores.numel())
    kept = top_edges(scores, n_start)
    # Ranks: those never in the race first, in their own order.
    rank = torch.empty(scores.numel(), dtype=torch.float64)
    order = torch.argsort(scores.flatten(), stable=True)
    rank[order] = torch.arange(len(order), dtype=torch.float64)
    rank = rank.view(scores.shape)
    next_rank = float(scores.numel())
    with prepared(pair.model), torch.no_grad():
        pieces = _some(pair, max_samples)
        states = [_State(piece, pair, kept) for piece in pieces]
        bar = tqdm(
            total=n_start, desc=f"greedy {pair.source} -> {pair.target}", disable=not progress,
            leave=False,
        )  # fmt: skip
        while kept.any():
            edges = kept.nonzero().tolist()
            effects = torch.zeros(len(edges), dtype=torch.float64)
            for state in states:
                effects += state.effects(edges, kept, chosen)
            n = max(1, int(share * len(edges)))
            for index in effects.argsort(descending=True)[:n].tolist():
                i, j = edges[index]
                kept[i, j] = False
                rank[i, j] = next_rank
                next_rank += 1
            bar.update(n)
        bar.close()
    return rank


def _some(pair: PairAblation, max_samples: int) -> list[Piece]:
    pieces, count = [], 0
    for piece in pair.pieces():
        pieces.append(piece)
        count += len(piece.z)
        if count >= max_samples:
            break
    return pieces


class _State:
    """One batch during elimination: target features now and with each edge taken away."""

    def __init__(self, piece: Piece, pair: PairAblation, kept: Tensor) -> None:
        self.piece, self.pair = piece, pair
        self.without: dict[tuple[int, int], tuple[bytes, Tensor]] = {}

    def effects(self, edges: list[list[int]], kept: Tensor, measure: Measure) -> Tensor:
        """Sum over samples of the measure when each of the edges is taken away."""
        piece = self.piece
        y = self.pair.features(piece, kept)
        # Edges whose target is left with the same sources share one pass through the segment.
        keys = [row.numpy().tobytes() for row in kept]
        groups: dict[bytes, list[tuple[int, int]]] = {}
        for i, j in edges:
            known = self.without.get((i, j))
            if known is None or known[0] != keys[i]:
                rest = kept[i].clone()
                rest[j] = False
                groups.setdefault(rest.numpy().tobytes(), []).append((i, j))
        for members in groups.values():
            i, j = members[0]
            rest = kept[i].clone()
            rest[j] = False
            changed = piece.with_sources(rest.to(piece.z.device))
            for i, j in members:
                self.without[i, j] = (keys[i], changed[..., i].clone())
        result = torch.empty(len(edges), dtype=torch.float64)
        for index, (i, j) in enumerate(edges):
            altered = y.clone()
            altered[..., i] = self.without[i, j][1]
            values = take(measure, piece.tail(altered), piece.batch, piece.intact, piece.mask)
            result[index] = float(values.sum(dtype=torch.float64))
        return result
