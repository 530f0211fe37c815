"""Modular addition: graphs whose modules are the Fourier frequencies that the network uses.

One-layer transformers on (x + y) mod p, feature maps and edges as published for the Local
Interaction Basis (arXiv 2405.10928): squared plain gradients, summed over target positions,
averaged over samples and source positions.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from .graphs import KnownGraph, chain

REFERENCE = Path("../shared/reference/modular_addition_lib.safetensors")
LAYERS = ("embed", "mid", "final")
SHARE = 1e-3  # of a block's strength: features below it are not scored


class Addition(nn.Module):
    """One block without layer norm; `embed` [3 positions], `mid` and `final` at the last one."""

    def __init__(self, p: int, width: int = 128, heads: int = 4, hidden: int = 512) -> None:
        super().__init__()
        self.p, self.heads = p, heads
        size = width // heads

        def matrix(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / math.sqrt(width))

        self.tokens, self.positions = matrix(p + 1, width), matrix(3, width)
        self.q, self.k, self.v = (matrix(heads, width, size) for _ in range(3))
        self.o = matrix(heads, size, width)
        self.q_bias, self.k_bias, self.v_bias = (
            nn.Parameter(torch.zeros(heads, size)) for _ in range(3)
        )
        self.o_bias = nn.Parameter(torch.zeros(width))
        self.w_in, self.w_out = matrix(width, hidden), matrix(hidden, width)
        self.b_in, self.b_out = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(width))
        self.unembed = matrix(width, p + 1)
        self.unembed_bias = nn.Parameter(torch.zeros(p + 1))

    def embed(self, x: Tensor) -> Tensor:
        """Token plus position embedding, `[..., 3, width]`."""
        return self.tokens[x] + self.positions

    def mid(self, embed: Tensor) -> Tensor:
        """Residual stream after attention, last position, `[..., width]`."""
        last = embed[..., -1, :]
        q = torch.einsum("...d,hde->...he", last, self.q) + self.q_bias
        k = torch.einsum("...sd,hde->...she", embed, self.k) + self.k_bias
        v = torch.einsum("...sd,hde->...she", embed, self.v) + self.v_bias
        scores = torch.einsum("...he,...she->...hs", q, k) / math.sqrt(q.shape[-1])
        mixed = torch.einsum("...hs,...she->...he", scores.softmax(-1), v)
        return last + torch.einsum("...he,hed->...d", mixed, self.o) + self.o_bias

    def final(self, mid: Tensor) -> Tensor:
        """Residual stream after the multi-layer perceptron, `[..., width]`."""
        return mid + (mid @ self.w_in + self.b_in).relu() @ self.w_out + self.b_out

    def logits(self, final: Tensor) -> Tensor:
        """`[..., p + 1]`."""
        return final @ self.unembed + self.unembed_bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the last position."""
        return self.logits(self.final(self.mid(self.embed(x))))


class Basis(NamedTuple):
    """z = encode (f - mean), f = decode z + mean."""

    mean: Tensor
    encode: Tensor
    decode: Tensor


def all_pairs(p: int) -> Tensor:
    """Every input: token x, token y, the equals sign, `[p * p, 3]`."""
    grid = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    return torch.cat([grid, torch.full((p * p, 1), p)], 1)


def train(p: int, seed: int, steps: int, share: float, **sizes: int) -> tuple[Addition, Tensor]:
    """Full-batch AdamW with weight decay 1; returns the model and its training inputs."""
    torch.manual_seed(seed)
    model = Addition(p, **sizes)
    inputs = all_pairs(p)
    rows = torch.randperm(len(inputs))[: int(share * len(inputs))]
    x = inputs[rows]
    y = (x[:, 0] + x[:, 1]) % p
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10)
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model, x


@torch.no_grad()
def accuracy(model: Addition) -> float:
    """Over all pairs."""
    x = all_pairs(model.p)
    return float(
        (model(x)[:, : model.p].argmax(-1) == (x[:, 0] + x[:, 1]) % model.p).float().mean()
    )


def reference() -> tuple[Addition, Tensor]:
    """The published model and its training inputs."""
    from safetensors.torch import load_file

    data = load_file(REFERENCE)
    model = Addition(113)
    block = "model.blocks.0."
    names = {
        "tokens": "model.embed.W_E", "positions": "model.pos_embed.W_pos",
        "q": block + "attn.W_Q", "k": block + "attn.W_K", "v": block + "attn.W_V",
        "o": block + "attn.W_O", "q_bias": block + "attn.b_Q", "k_bias": block + "attn.b_K",
        "v_bias": block + "attn.b_V", "o_bias": block + "attn.b_O", "w_in": block + "mlp.W_in",
        "w_out": block + "mlp.W_out", "b_in": block + "mlp.b_in", "b_out": block + "mlp.b_out",
        "unembed": "model.unembed.W_U", "unembed_bias": "model.unembed.b_U",
    }  # fmt: skip
    model.load_state_dict({name: data[key] for name, key in names.items()})
    return model, all_pairs(113)[data["train_indices"]]


def _jacobian_of(function: nn.Module, f: Tensor) -> Tensor:
    return vmap(jacrev(function), chunk_size=256)(f)


class Measured(NamedTuple):
    """Activations and gradients of a model over its training inputs, in float64."""

    activations: dict[str, Tensor]  # [samples, (positions,) width]
    jacobians: dict[str, Tensor]  # [samples, targets, (positions,) width]


@torch.no_grad()
def measure(model: Addition, x: Tensor) -> Measured:
    """One pass; the jacobian of a name leads to the next layer's activation."""
    model = model.double()
    embed = model.embed(x)
    mid = model.mid(embed)
    final = model.final(mid)
    return Measured(
        {"embed": embed, "mid": mid, "final": final},
        {
            "embed": _jacobian_of(model.mid, embed),
            "mid": _jacobian_of(model.final, mid),
            "final": model.unembed.T.expand(len(x), -1, -1),
        },
    )


def pca(measured: Measured) -> dict[str, Basis]:
    """Eigenvectors of the centred second moments."""
    result = {}
    for layer in LAYERS:
        f = measured.activations[layer].flatten(0, -2)
        mean = f.mean(0)
        values, vectors = torch.linalg.eigh((f - mean).T @ (f - mean) / len(f))
        kept = vectors[:, values > 1e-12 * values.max()].flip(1)
        result[layer] = Basis(mean, kept.T, kept)
    return result


def local_interaction_basis(measured: Measured, threshold: float = 1e-12) -> dict[str, Basis]:
    """Whitened, then rotated to eigenvectors of the mean squared jacobian, from the end back."""
    result: dict[str, Basis] = {}
    following = None
    for layer in reversed(LAYERS):
        f = measured.activations[layer].flatten(0, -2)
        jacobian = measured.jacobians[layer]
        if following is not None:
            jacobian = torch.einsum("it,bt...->bi...", following.encode, jacobian)
        if jacobian.ndim == 3:
            jacobian = jacobian[:, :, None]
        mean = f.mean(0)
        values, u = torch.linalg.eigh((f - mean).T @ (f - mean) / len(f))
        kept = values > threshold * values.max()
        u, root = u[:, kept], values[kept].sqrt()
        rows = jacobian.permute(0, 2, 1, 3).flatten(0, 2)
        m = rows.T @ rows / (len(jacobian) * jacobian.shape[2])
        m = root[:, None] * (u.T @ m @ u) * root
        strength, v = torch.linalg.eigh(m)
        order = strength.argsort(descending=True)
        order = order[strength[order] > threshold * strength.max()]
        v, scale = v[:, order], strength[order].sqrt()
        encode = scale[:, None] * v.T @ (u / root).T
        following = result[layer] = Basis(mean, encode, (u * root) @ v / scale)
    return result


@torch.no_grad()
def known_graph(name: str, measured: Measured, x: Tensor, p: int, bases: dict) -> KnownGraph:
    """Edges embed -> mid -> final, and the dominant frequency of each feature that matters."""
    blocks, errors = [], []
    for source, target in pairwise(LAYERS):
        jacobian = measured.jacobians[source]
        f = measured.activations[source]
        if jacobian.ndim == 3:
            jacobian, f = jacobian[:, :, None], f[:, None]
        z = (f - bases[source].mean) @ bases[source].encode.T
        total = torch.zeros(len(bases[target].encode), z.shape[-1], dtype=torch.float64)
        squared = total.clone()
        for rows in torch.arange(len(f)).split(64):
            g = torch.einsum("it,btsd,dj->bsij", bases[target].encode, jacobian[rows],
                             bases[source].decode)  # fmt: skip
            a = torch.einsum("bsij,bsj->bij", g, z[rows]).square() / f.shape[1]
            total += a.sum(0)
            squared += a.square().sum(0)
        mean = total / len(f)
        blocks.append(mean)
        errors.append(((squared / len(f) - mean.square()).clamp_min(0) / len(f)).sqrt())
    truth = []
    for k, layer in enumerate(LAYERS):
        f = measured.activations[layer]
        z = (f - bases[layer].mean) @ bases[layer].encode.T
        frequency = dominant_frequency(z, x, p)
        shares = [blocks[b].sum(1 - side) / blocks[b].sum() for b, side in ((k - 1, 0), (k, 1))
                  if 0 <= b < len(blocks)]  # fmt: skip
        matters = torch.stack(shares).amax(0).numpy() > SHARE
        truth.append(np.where(matters, frequency, -1))
    graph = chain({"squared": blocks}, {"squared": errors})
    return KnownGraph(name, graph, np.concatenate(truth))


def dominant_frequency(z: Tensor, x: Tensor, p: int) -> np.ndarray:
    """Frequency that explains most variance of each feature over the samples.

    Each feature is regressed on sines and cosines of w x, w y, w (x + y), w (x - y) for every w
    (products of w x and w y waves are sums of the last two); embeddings position by position.
    """
    angle = 2 * math.pi / p
    x = x.double()
    if z.ndim == 3:  # positions 0 and 1 read one token each
        columns = [(x[:, s], z[:, s]) for s in range(2)]
    waves = range(1, (p + 1) // 2)
    explained = []
    for w in waves:
        if z.ndim == 3:
            gain = sum(_explained([t * w * angle], values) for t, values in columns)
        else:
            a, b = x[:, 0] * w * angle, x[:, 1] * w * angle
            gain = _explained([a, b, a + b, a - b], z)
        explained.append(gain)
    return torch.stack(explained).argmax(0).numpy() + 1


def _explained(angles: list[Tensor], z: Tensor) -> Tensor:
    design = torch.cat([torch.stack([a.cos(), a.sin()], 1) for a in angles], 1)
    design = design - design.mean(0)
    z = z - z.mean(0)
    fitted = design @ torch.linalg.lstsq(design, z).solution
    return fitted.square().sum(0)
