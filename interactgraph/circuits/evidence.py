"""How strongly the links speak for two features to be one supernode.

A feature's profile in is what it reads: its row of the signed shares of inputs. Its profile out is
what it writes: its column, how large a share of each target's input it is. A column of either is
divided by the square root of its norm over all features, so that hubs, which everything reads or
writes, count less. Of two features only the nodes before both (in) or after both (out) are
compared, by the cosine; features of different layers could not have the others in common.

Features at one place are alike anyway: they read the same tokens and write the same logits. So a
cosine is compared with what is usual around each of the two features: z is by how many standard
deviations it is above the mean over the features near it. The log odds are linear in z of both
profiles, in the distance of layers, in whether the position is the same, and in the logarithm of
the number of features near: a group is not larger where there are more to choose from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from . import constants
from .attribution_graph import AttributionGraph

__all__ = ["Pairs", "candidate_pairs", "crowd", "log_odds", "profiles", "unusual"]


class Pairs(NamedTuple):
    """Pairs of features that are close enough to be compared, each once.

    Attributes:
        first: place in `graph.features`, int32 `[pairs]`.
        second: the same of the other one.
        alike_in: cosine of the profiles in, float32 `[pairs]`.
        alike_out: cosine of the profiles out, float32 `[pairs]`.
        layers: layers between them, int32 `[pairs]`.
        same_position: bool `[pairs]`.
    """

    first: np.ndarray
    second: np.ndarray
    alike_in: np.ndarray
    alike_out: np.ndarray
    layers: np.ndarray
    same_position: np.ndarray


def profiles(graph: AttributionGraph) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Profiles in and out of all features, `[features, nodes]` both, hubs reduced."""
    shares, features = graph.shares, graph.features
    reads = sparse.csr_array(shares[features])
    writes = sparse.csr_array(shares[:, features].T)
    return _without_hubs(reads), _without_hubs(writes)


def _without_hubs(profile: sparse.csr_array) -> sparse.csr_array:
    """Divides every column by the square root of its norm, of rows whose absolute sum is 1."""
    total = np.asarray(abs(profile).sum(1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    profile = sparse.csr_array(sparse.diags_array(scale) @ profile)
    norm = np.sqrt(np.asarray(profile.power(2).sum(0)).ravel())
    weight = np.divide(1.0, np.sqrt(norm), out=np.zeros_like(norm), where=norm > 0)
    return sparse.csr_array(profile @ sparse.diags_array(weight))


def candidate_pairs(graph: AttributionGraph) -> Pairs:
    """All pairs of features near to each other, with their cosines."""
    # Nodes in order of depth: what is before or after both features is one slice of columns.
    order = np.argsort(graph.depth, kind="stable")
    sorted_depth = graph.depth[order]
    in_order = [sparse.csc_array(profile)[:, order] for profile in profiles(graph)]
    depth, position = graph.depth[graph.features], graph.positions[graph.features]
    found = np.unique(depth)
    at = {int(d): np.flatnonzero(depth == d) for d in found}
    parts = []
    for low in at:
        before = int(np.searchsorted(sorted_depth, low, "left"))
        for high in at:
            if not 0 <= high - low <= constants.FARTHEST_LAYERS:
                continue
            after = int(np.searchsorted(sorted_depth, high, "right"))
            a, b = at[low], at[high]
            distance = np.abs(position[a][:, None] - position[b])
            near = distance <= constants.FARTHEST_POSITIONS
            if low == high:
                near = np.triu(near, 1)
            i, j = np.nonzero(near)
            columns = (slice(None, before), slice(after, None))
            cosines = []
            for profile, both in zip(in_order, columns, strict=True):
                rows = sparse.csr_array(profile[:, both])
                cosines.append(_cosines(rows[a], rows[b])[i, j].astype(np.float32))
            parts.append((a[i], b[j], *cosines, np.full(len(i), high - low), distance[i, j] == 0))
    types = (np.int32, np.int32, np.float32, np.float32, np.int32, bool)
    fields = zip(*parts, strict=True) if parts else [[] for _ in types]
    return Pairs(
        *(
            np.concatenate([np.zeros(0, dtype), *column]).astype(dtype)
            for column, dtype in zip(fields, types, strict=True)
        )
    )


def _cosines(a: sparse.csr_array, b: sparse.csr_array) -> np.ndarray:
    """Cosines of the rows, 0 for rows without entries."""
    norms = [np.sqrt(np.asarray(x.power(2).sum(1)).ravel()) for x in (a, b)]
    scales = [np.divide(1.0, n, out=np.zeros_like(n), where=n > 0) for n in norms]
    return np.asarray((a @ b.T).toarray() * scales[0][:, None] * scales[1])


def unusual(pairs: Pairs, cosine: np.ndarray, n_features: int) -> np.ndarray:
    """By how much features of a pair are more alike than each is to others near it.

    Mean over both features of (cosine - mean) / sqrt(variance + floor^2); pairs count less the
    more layers are between them.

    Args:
        pairs: all of them.
        cosine: of each pair, `[pairs]`.
        n_features: number of features.

    Returns:
        float64 `[pairs]`, within the range that counts.
    """
    near = _nearness(pairs)
    total = np.maximum(_sums(pairs, near, n_features), np.finfo(float).tiny)
    mean = _sums(pairs, near * cosine, n_features) / total
    square = _sums(pairs, near * np.square(cosine, dtype=np.float64), n_features) / total
    scale = np.sqrt(np.maximum(square - mean**2, 0) + constants.USUAL_FLOOR**2)
    z = (cosine - mean[pairs.first]) / scale[pairs.first]
    z += (cosine - mean[pairs.second]) / scale[pairs.second]
    return np.clip(z / 2, constants.LEAST, constants.MOST)


def crowd(pairs: Pairs, n_features: int) -> np.ndarray:
    """Mean over both features of log(1 + number of features near it), float64 `[pairs]`."""
    each = np.log1p(_sums(pairs, _nearness(pairs), n_features)) / 2
    return each[pairs.first] + each[pairs.second]


def _nearness(pairs: Pairs) -> np.ndarray:
    """What a pair counts among those near either of its features: less over more layers."""
    return np.exp(-pairs.layers / constants.USUAL_LAYERS)


def _sums(pairs: Pairs, values: np.ndarray, n_features: int) -> np.ndarray:
    """For each feature the sum over its pairs, `[features]`."""
    return np.bincount(pairs.first, values, n_features) + np.bincount(
        pairs.second, values, n_features
    )


def log_odds(pairs: Pairs, n_features: int) -> np.ndarray:
    """Log odds that the features of a pair belong to one supernode, float64 `[pairs]`."""
    result = constants.BIAS + constants.SAME_POSITION * pairs.same_position
    result += constants.PER_LAYER * pairs.layers
    result += constants.PER_CROWD * crowd(pairs, n_features)
    result += constants.ALIKE_IN * unusual(pairs, pairs.alike_in, n_features)
    result += constants.ALIKE_OUT * unusual(pairs, pairs.alike_out, n_features)
    return np.asarray(result)
