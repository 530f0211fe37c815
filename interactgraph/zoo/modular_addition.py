"""Modular addition: (x + y) mod p, whose known modules are the Fourier frequencies that are used.

A one-layer transformer without layer norm learns it by trigonometry: it embeds the tokens as waves
of a few frequencies, and adds and multiplies the waves of each frequency by themselves (Nanda et
al., Progress measures for grokking, arXiv 2301.05217).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..features import FeatureMap

__all__ = [
    "AdditionNetwork",
    "ModularAddition",
    "addition_pairs",
    "frequency_shares",
    "modular_addition",
    "published_model",
    "train_modular_addition",
]


class ModularAddition(nn.Module):
    """Tokens x, y, "equals" -> logits of (x + y) mod p, read at the last position.

    Its layers are named by what they hold: `embed` (token plus position embedding, `[b, 3, d]`),
    `mid` (residual stream after attention, last position, `[b, d]`), `final` (residual stream
    after the ReLU layer, `[b, d]`), `logits` (`[b, p + 1]`).
    """

    def __init__(
        self, modulus: int = 113, width: int = 128, n_heads: int = 4, hidden: int = 512
    ) -> None:
        super().__init__()
        if modulus < 2 or width % n_heads:
            raise InteractGraphError(
                f"modulus={modulus}, width={width}, n_heads={n_heads}; the modulus must be at "
                "least 2 and the width a multiple of the number of heads"
            )
        self.modulus = modulus
        self.embed = _Embedding(modulus + 1, width)
        self.mid = _Attention(width, n_heads)
        self.final = _Perceptron(width, hidden)
        self.logits = nn.Linear(width, modulus + 1)
        nn.init.normal_(self.logits.weight, std=width**-0.5)
        nn.init.zeros_(self.logits.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers `[b, 3]` -> logits `[b, p + 1]`."""
        result: Tensor = self.logits(self.final(self.mid(self.embed(tokens))))
        return result


class _Embedding(nn.Module):
    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = _matrix(n_tokens, width, scale=width)
        self.positions = _matrix(3, width, scale=width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens[tokens] + self.positions


class _Attention(nn.Module):
    """What the last position receives from all three, added to its residual stream."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        size = width // n_heads
        self.query, self.key, self.value = (
            _matrix(n_heads, width, size, scale=width) for _ in range(3)
        )
        self.out = _matrix(n_heads, size, width, scale=width)
        self.query_bias, self.key_bias, self.value_bias = (
            nn.Parameter(torch.zeros(n_heads, size)) for _ in range(3)
        )
        self.out_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1]
        query = torch.einsum("bd,hde->bhe", last, self.query) + self.query_bias
        key = torch.einsum("bsd,hde->bshe", x, self.key) + self.key_bias
        value = torch.einsum("bsd,hde->bshe", x, self.value) + self.value_bias
        scores = torch.einsum("bhe,bshe->bhs", query, key) / math.sqrt(query.shape[-1])
        mixed = torch.einsum("bhs,bshe->bhe", scores.softmax(-1), value)
        return last + torch.einsum("bhe,hed->bd", mixed, self.out) + self.out_bias


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=width**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(self.up(x).relu())
        return result


def _matrix(*shape: int, scale: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / math.sqrt(scale))


def published_model(tensors: Mapping[str, Tensor]) -> ModularAddition:
    """A checkpoint of Bushnaq et al. (arXiv 2405.10928) as this model, p = 113.

    Args:
        tensors: its parameters, named `model.embed.W_E`, `model.blocks.0.attn.W_Q`, ...

    Raises:
        InteractGraphError: one of them is missing, or has another shape.
    """
    block = "model.blocks.0."
    names = {
        "embed.tokens": "model.embed.W_E", "embed.positions": "model.pos_embed.W_pos",
        "mid.query": block + "attn.W_Q", "mid.key": block + "attn.W_K",
        "mid.value": block + "attn.W_V", "mid.out": block + "attn.W_O",
        "mid.query_bias": block + "attn.b_Q", "mid.key_bias": block + "attn.b_K",
        "mid.value_bias": block + "attn.b_V", "mid.out_bias": block + "attn.b_O",
        "final.up.weight": block + "mlp.W_in", "final.up.bias": block + "mlp.b_in",
        "final.down.weight": block + "mlp.W_out", "final.down.bias": block + "mlp.b_out",
        "logits.weight": "model.unembed.W_U", "logits.bias": "model.unembed.b_U",
    }  # fmt: skip
    model = ModularAddition()
    try:
        state = {name: tensors[published] for name, published in names.items()}
        # Their linear maps act from the right.
        state = {name: t.T if name.endswith(".weight") else t for name, t in state.items()}
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise InteractGraphError(f"this is no published modular-addition model: {error}") from None
    return model


def addition_pairs(modulus: int) -> Tensor:
    """Every input, token numbers `[p * p, 3]`: row x p + y is (x, y, "equals")."""
    grid = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))
    return torch.cat([grid, torch.full((modulus**2, 1), modulus)], 1)


@torch.enable_grad()
def train_modular_addition(
    modulus: int = 113,
    *,
    seed: int = 0,
    share: float = 0.3,
    max_steps: int = 40_000,
    width: int = 128,
    n_heads: int = 4,
    hidden: int = 512,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[ModularAddition, Tensor, Tensor]:
    """Trains with full batches, AdamW and weight decay 1 until the other pairs are right too.

    Args:
        modulus: p.
        seed: of the weights and of the split.
        share: share of all pairs that is trained on.
        max_steps: training ends there at the latest.
        width: size of the residual stream.
        n_heads: attention heads.
        hidden: size of the ReLU layer.
        progress: told (step, accuracy on the other pairs) every 100 steps.

    Returns:
        The model, the pairs it was trained on and the others, token numbers `[samples, 3]`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ModularAddition(modulus, width, n_heads, hidden)
        pairs = addition_pairs(modulus)
        order = torch.randperm(len(pairs))
    n_train = int(share * len(pairs))
    seen, unseen = pairs[order[:n_train]], pairs[order[n_train:]]
    answers = (seen[:, 0] + seen[:, 1]) % modulus
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    since = 0
    for step in range(max_steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 10)
        loss = nn.functional.cross_entropy(model(seen), answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            right = _accuracy(model, unseen)
            if progress is not None:
                progress(step, right)
            # After the jump in accuracy, weight decay goes on removing what was only memorised.
            since = since + 1 if right > 0.999 else 0
            if since >= 10 and since * 100 > step // 3:
                break
    return model, seen, unseen


@dataclass(frozen=True, eq=False)
class AdditionNetwork:
    """A trained network and what is known about it.

    Attributes:
        model: see `ModularAddition`.
        layers: "embed", "mid", "final".
        data: pairs that it was trained on, token numbers `[samples, 3]`.
        others: the other pairs.
        accuracy: on the others.
    """

    model: ModularAddition
    layers: list[str]
    data: Tensor
    others: Tensor
    accuracy: float

    def frequencies(self, maps: Mapping[str, FeatureMap]) -> dict[str, Tensor]:
        """Layer -> share of each frequency in each feature's variance, `[features, p // 2]`.

        The true module of a feature is its largest; see `frequency_shares`.

        Args:
            maps: layer -> fitted feature map, of some of the layers.
        """
        with torch.no_grad():
            activation, found = self.data, {}
            for layer in self.layers:
                activation = self.model.get_submodule(layer)(activation)
                if layer in maps:
                    features = maps[layer].encode(activation)
                    found[layer] = frequency_shares(features, self.data, self.model.modulus)
        return found


def modular_addition(
    seed: int = 0, *, modulus: int = 29, width: int = 64, hidden: int = 128
) -> AdditionNetwork:
    """Trains a small network (half a minute on a CPU); it comes back in float64.

    Args:
        seed: of the weights and of the split.
        modulus: p.
        width: size of the residual stream.
        hidden: size of the ReLU layer.
    """
    model, seen, unseen = train_modular_addition(
        modulus, seed=seed, share=0.6, width=width, hidden=hidden, max_steps=5_000
    )
    model = model.double()
    return AdditionNetwork(model, ["embed", "mid", "final"], seen, unseen, _accuracy(model, unseen))


@torch.no_grad()
def _accuracy(model: ModularAddition, tokens: Tensor) -> float:
    answers = model(tokens)[:, : model.modulus].argmax(-1)
    return float((answers == (tokens[:, 0] + tokens[:, 1]) % model.modulus).float().mean())


def frequency_shares(features: Tensor, tokens: Tensor, modulus: int) -> Tensor:
    """Which share of each feature's variance waves of each frequency explain.

    A feature is fitted by least squares on the sines and cosines of w x, w y, w (x + y) and
    w (x - y), w = 2 pi k / p; at positions that see one token only, those of that token.

    Args:
        features: `[b, j]`, or embeddings `[b, 3, j]`.
        tokens: `[b, 3]`.
        modulus: p.

    Returns:
        Shares, `[j, p // 2]`; column k - 1 belongs to frequency k.
    """
    x = tokens[:, :2].to(features.dtype) * (2 * math.pi / modulus)
    a, b = x[:, 0], x[:, 1]
    if features.ndim == 3:
        parts = [(features[:, s], [x[:, s]]) for s in range(2)]
    else:
        parts = [(features, [a, b, a + b, a - b])]
    shares = []
    total = sum((z - z.mean(0)).square().sum(0) for z, _ in parts)
    assert isinstance(total, Tensor)
    for k in range(1, modulus // 2 + 1):
        explained = torch.zeros_like(total)
        for z, angles in parts:
            waves = torch.stack([f(k * w) for w in angles for f in (torch.cos, torch.sin)], 1)
            waves = waves - waves.mean(0)
            z = z - z.mean(0)
            explained += (waves @ torch.linalg.lstsq(waves, z).solution).square().sum(0)
        shares.append(explained / total.clamp_min(torch.finfo(total.dtype).tiny))
    return torch.stack(shares, 1)
