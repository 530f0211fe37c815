"""Blocks with fixed attention patterns and scales, written in the ways that models use."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, HIDDEN = 6, 2, 7


class Block(nn.Module):
    """A block, pre- or post-norm, with its attention written in one of several ways."""

    def __init__(self, *, post=False, parallel=False, norm="layer", heads="each", causal=False):
        super().__init__()
        self.post, self.parallel, self.heads, self.causal = post, parallel, heads, causal
        kinds = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
        self.first, self.second = kinds[norm](WIDTH), kinds[norm](WIDTH)
        groups = 1 if heads in ("shared", "repeated") else HEADS
        size = WIDTH // HEADS
        self.sizes = (WIDTH, groups * size, groups * size)
        self.maps, self.out = nn.Linear(WIDTH, sum(self.sizes)), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.6)

    def attention(self, x):
        size = WIDTH // HEADS
        q, k, v = (y.unflatten(-1, (-1, size)).transpose(1, 2) for y in self.split(x))
        if self.heads == "shared":  # expanded, then merged, as language models repeat keys
            k, v = (
                y[:, :, None].expand(-1, -1, HEADS, -1, -1).reshape(len(y), HEADS, -1, size)
                for y in (k, v)
            )
        if self.heads == "repeated":
            k, v = (y.repeat_interleave(HEADS, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def split(self, x):
        return self.maps(x).split(self.sizes, -1)

    def perceptron(self, x):
        return self.down(F.gelu(self.up(x)))

    def forward(self, x):
        if self.post:
            x = self.first(x + self.attention(x))
            return self.second(x + self.perceptron(x))
        if self.parallel:
            return x + self.attention(self.first(x)) + self.perceptron(self.second(x))
        x = x + self.attention(self.first(x))
        return x + self.perceptron(self.second(x))


class Gated(Block):
    """A product of two functions of the source, which has no closed form."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = nn.Linear(WIDTH, HIDDEN)

    def perceptron(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Frozen:
    """A block as a function of its input, what decides held at the values of some samples.

    In plain torch: the patterns and the scales by their formulas.
    """

    def __init__(self, block, at):
        self.block = block
        with torch.no_grad():
            if block.post:
                self.patterns = self.pattern(at)
                middle = at + self.mixed(at)
                self.scales = [self.scale(middle)]
                x = self.normed(middle, 0)
                self.scales.append(self.scale(x + block.perceptron(x)))
                return
            self.scales = [self.scale(at)]
            self.patterns = self.pattern(self.normed(at, 0))
            x = at + self.mixed(self.normed(at, 0))
            self.scales.append(self.scale(at if block.parallel else x))

    @staticmethod
    def centred(norm, x):
        return x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x

    def scale(self, x):
        norm = self.block.first
        eps = norm.eps or torch.finfo(x.dtype).eps
        return (self.centred(norm, x).square().mean(-1, keepdim=True) + eps).rsqrt()

    def normed(self, x, which):
        norm = (self.block.first, self.block.second)[which]
        y = self.centred(norm, x) * self.scales[which] * norm.weight
        return y + norm.bias if isinstance(norm, nn.LayerNorm) else y

    def values(self, x):
        size = WIDTH // HEADS
        q, k, v = self.block.split(x)
        read = [0] * HEADS if self.block.heads in ("shared", "repeated") else range(HEADS)
        for head, group in enumerate(read):
            own, of_group = (slice(n * size, (n + 1) * size) for n in (head, group))
            yield q[..., own], k[..., of_group], v[..., of_group]

    def pattern(self, x):
        patterns = []
        for q, k, _ in self.values(x):
            scores = q @ k.mT / (WIDTH // HEADS) ** 0.5
            if self.block.causal:
                later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            patterns.append(scores.softmax(-1))
        return patterns

    def mixed(self, x):
        heads = [p @ v for p, (_, _, v) in zip(self.patterns, self.values(x), strict=True)]
        return self.block.out(torch.cat(heads, -1))

    def __call__(self, x):
        block = self.block
        if block.post:
            x = self.normed(x + self.mixed(x), 0)
            return self.normed(x + block.perceptron(x), 1)
        if block.parallel:
            mixed = self.mixed(self.normed(x, 0))
            return x + mixed + block.perceptron(self.normed(x, 1))
        x = x + self.mixed(self.normed(x, 0))
        return x + block.perceptron(self.normed(x, 1))


BLOCKS = {
    "pre": {"causal": True},
    "post": {"post": True},
    "parallel": {"parallel": True, "norm": "rms"},
    "shared": {"heads": "shared", "norm": "rms"},
    "repeated": {"heads": "repeated", "post": True, "causal": True},
}


def plan_of(graph):
    return graph.metadata["plans"][0]


def counts(x):
    """A mask of samples of 6 positions: the first 4 of every third one."""
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[::3, 4:] = False
    return mask


def network(block):
    """A linear layer, then the block: the pair "0" -> "1"."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), block).double().eval()


def samples(n=3, length=4, seed=1):
    return torch.randn(
        n, length, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
