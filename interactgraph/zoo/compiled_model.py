"""Transformers that tracr compiles from RASP programs, as torch modules.

Lindner et al. 2023, arXiv 2301.05062: residual stream with named axes, attention and ReLU layers in
turn, no normalisation, and no biases: an axis that is always one takes their place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["AttentionHalf", "CompiledTransformer", "Embedding", "MLPHalf", "Unembedding"]


class Embedding(nn.Module):
    """Token numbers `[b, t]` -> the residual stream `[b, t, d]`, tokens plus positions."""

    def __init__(self, tokens: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens)
        self.positions = nn.Parameter(positions)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return self.tokens[tokens] + self.positions[: tokens.shape[1]]


class AttentionHalf(nn.Module):
    """The residual stream plus what its heads read, `[b, t, d] -> [b, t, d]`.

    Args:
        weights: query, key, value `[d, heads * size]`, and linear `[heads * size, d]`.
        n_heads: number of heads.
        causal: positions see only themselves and those before them.
    """

    def __init__(self, weights: Mapping[str, Tensor], n_heads: int, causal: bool) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(dict(weights))
        self.n_heads, self.causal = n_heads, causal

    def forward(self, residual: Tensor) -> Tensor:
        """See the class."""
        query, key, value = (self._heads(residual, name) for name in ("query", "key", "value"))
        logits = query @ key.mT / query.shape[-1] ** 0.5
        if self.causal:
            n = residual.shape[1]
            later = torch.ones(n, n, dtype=torch.bool, device=residual.device).triu(1)
            logits = logits.masked_fill(later, -1e30)
        read = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return residual + read @ self.weights["linear"]

    def _heads(self, residual: Tensor, name: str) -> Tensor:
        """Queries, keys or values, `[b, h, t, size]`."""
        return (residual @ self.weights[name]).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    @torch.no_grad()
    def joins(self, alive: Tensor) -> Tensor:
        """Which axes the weights join, bool `[target, source]`, see `CompiledTransformer.joins`."""
        query, key, value = (
            self.weights[name].unflatten(1, (self.n_heads, -1)).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        linear = self.weights["linear"].unflatten(0, (self.n_heads, -1))
        moved = (value @ linear != 0) & alive[:, None]  # [h, source, target]
        score = (query @ key.mT != 0) & alive[:, None] & alive  # [h, query axis, key axis]
        scored = score.any(2) | score.any(1)
        return (moved | (scored[:, :, None] & moved.any(1, keepdim=True))).any(0).mT


class MLPHalf(nn.Module):
    """The residual stream plus a ReLU layer of it, `[b, t, d] -> [b, t, d]`.

    Args:
        weights: first `[d, hidden]`, second `[hidden, d]`.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(dict(weights))

    def forward(self, residual: Tensor) -> Tensor:
        """See the class."""
        return residual + (residual @ self.weights["first"]).relu() @ self.weights["second"]

    @torch.no_grad()
    def joins(self, alive: Tensor) -> Tensor:
        """Which axes the weights join, bool `[target, source]`, see `CompiledTransformer.joins`."""
        first = (self.weights["first"] != 0) & alive[:, None]
        second = self.weights["second"] != 0
        return (first.double() @ second.double() > 0).mT


class Unembedding(nn.Module):
    """The axes of the output, `[b, t, d] -> [b, t, outputs]`; a category is the largest of them."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, residual: Tensor) -> Tensor:
        """See the class."""
        return residual @ self.matrix


class CompiledTransformer(nn.Module):
    """Embedding, attention and MLP halves in turn, unembedding.

    Token numbers int64 `[b, t]`, the first of each sequence that of the compiler's mark, to outputs
    `[b, t, outputs]`. Every module but the last returns the residual stream as it is after it, so
    that "embedding", "attention_0", "mlp_0", ... name the residual states.

    Args:
        weights: as `CompiledProgram.save` writes them.
        n_heads: of every attention half.
        causal: whether attention is.
    """

    def __init__(self, weights: Mapping[str, Tensor], n_heads: int, causal: bool) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in weights.items():
            part, _, own = name.partition(".")
            parts.setdefault(part, {})[own] = tensor
        n_layers = sum(part.startswith("attention_") for part in parts)
        halves: dict[str, nn.Module] = {"embedding": Embedding(**parts["embedding"])}
        for layer in range(n_layers):
            attention = AttentionHalf(parts[f"attention_{layer}"], n_heads, causal)
            halves[f"attention_{layer}"] = attention
            halves[f"mlp_{layer}"] = MLPHalf(parts[f"mlp_{layer}"])
        halves["unembedding"] = Unembedding(**parts["unembedding"])
        super().__init__()
        for name, half in halves.items():
            self.add_module(name, half)
        self.n_heads, self.causal = n_heads, causal
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        state = tokens
        for module in self.children():
            state = module(state)
        return state

    @property
    def residual_states(self) -> list[str]:
        """The modules that return the residual stream, in order."""
        return [name for name, _ in self.named_children()][:-1]
