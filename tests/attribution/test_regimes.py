"""Models that do something else on later batches, or that records and transforms stumble over.

The first batch is small and the second one large, so that what holds on the first one alone shows.
"""

import copy

import networks
import numpy as np
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg

N_STEPS = 24


class Tail(nn.Module):
    """Linear a, then something, then linear c."""

    def __init__(self, tail):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c, self.tail = nn.Linear(5, 6), nn.Linear(6, 3), tail

    def forward(self, x, extra=None):
        return self.c(self.tail(self.a(x), extra))


def view_clamped(h, _):
    h = torch.tanh(h) * 3
    h[:, :2].clamp_(max=2.0)  # does nothing to small values
    return torch.sigmoid(h)


def parts_written(h, _):
    out = torch.zeros_like(h)
    out[:, 1:4] = torch.sin(h[:, 2:5])
    out[:, 0] += h[:, 5]
    return out.mul_(h)


def branch_along_the_path(h, _):
    return torch.sin(h) if float(h.detach().abs().max()) < 50 else h


def branch_by_a_tensor(h, extra):
    return torch.tanh(h) if float(extra.sum()) > 0 else torch.sin(h)


def lengths_read_unseen(h, extra):
    rows = [[n < length for n in range(6)] for length in extra.tolist()]
    return torch.tanh(h) * torch.tensor(rows)


def rows_chosen_by_a_mask(h, extra):
    out = torch.zeros_like(h)
    rows = h[extra > 3]
    out[extra > 3] = torch.sin(rows.view(rows.shape[0], 2, 3).flatten(1))
    return out


def detached(h, _):
    return torch.tanh(h) * torch.sigmoid(h).detach()


def rotary(h, _):
    turned = torch.view_as_complex(h.reshape(len(h), 3, 2).contiguous())
    turned = turned * torch.polar(torch.ones(3), torch.arange(3.0)).to(turned)
    return torch.view_as_real(turned).flatten(1).sin()


def spectral(h, _):
    return torch.fft.irfft(torch.fft.rfft(h).abs() + 1, n=6)


def prototypes(h, _):
    centres = torch.arange(36.0).reshape(6, 6).sin().to(h)
    return torch.exp(-torch.cdist(h, centres))


def surrogate(h, _):
    return networks.OldStyle.apply(h)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 6, batch_first=True)

    def forward(self, h, extra):
        lengths = extra.clamp(min=1, max=2)
        both = torch.stack([h, h.flip(1)], 1)
        packed = nn.utils.rnn.pack_padded_sequence(
            both, lengths, batch_first=True, enforce_sorted=False
        )
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return out.sum(1)


TAILS = {
    f.__name__: f
    for f in (
        view_clamped, parts_written, branch_along_the_path, branch_by_a_tensor,
        lengths_read_unseen, rows_chosen_by_a_mask, detached, rotary, spectral, prototypes,
        surrogate,
    )
} | {"packed": Packed()}  # fmt: skip


ALWAYS_REFUSED = {"closed_form"}
REFUSED = {
    "branch_by_a_tensor": set(),
    **{name: {"forward", "closed_form"} for name in ("prototypes", "surrogate", "packed")},
}


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse", "closed_form"])
@pytest.mark.parametrize("name", list(TAILS))
def test_every_engine_is_right_or_says_that_it_cannot(name, engine):
    model = Tail(TAILS[name]).double()
    batches = []
    for size, seed in ((0.3, 1), (3.0, 2)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4, 5, dtype=torch.float64, generator=generator) * size
        extra = torch.tensor([2, 5, 4, 6]) if seed == 1 else torch.tensor([-9, 4, 1, 2])
        batches.append({"x": x, "extra": extra})
    options = {"engine": engine, "n_steps": N_STEPS, "tolerance": None, "progress": False}
    if engine in REFUSED.get(name, ALWAYS_REFUSED):
        with pytest.raises(itg.InteractGraphError, match=r"engine='.*' or 'auto'|engine='auto'"):
            itg.interaction_graph(model, batches, ["a", "c"], **options)
        return
    strengths = ("mean", "rms", "max")
    graph = itg.interaction_graph(model, batches, ["a", "c"], strengths=strengths, **options)
    a = []
    for batch in batches:
        z = model.a(batch["x"]).detach()[:, None]
        a.append(
            reference.attributions(
                lambda z, batch=batch: model.c(model.tail(z[:, 0], batch["extra"]))[:, None],
                z, torch.zeros_like(z), N_STEPS,
            )
        )  # fmt: skip
    expected = reference.strengths(a)
    kinked = name == "view_clamped"  # where the reference's quadrature is coarse
    exact = graph.metadata["plans"][0]["engine"] != "closed_form" or not kinked
    for strength in strengths:
        found = graph.weights("a", "c", strength).numpy()
        tolerance = 1e-9 if exact else 0.05
        np.testing.assert_allclose(
            found, expected[strength], rtol=tolerance, atol=tolerance * np.abs(found).max()
        )


def test_positions_that_mix_on_later_batches_only():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.r, self.o = nn.ReLU(), nn.Identity()
            self.b, self.v = nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, x):
            h = self.r(x)
            return self.o(torch.tanh(self.b(h)) + torch.relu(self.v(h.roll(1, 1)) - 1))

    torch.manual_seed(0)
    model = Gated().double()
    x = torch.randn(12, 5, 12, dtype=torch.float64) - 1
    batches = [0.3 * x[:4], 3 * x[4:8], 3 * x[8:]]
    graphs = [
        itg.interaction_graph(model, batches, ["r", "o"], engine=engine, progress=False)
        for engine in ("forward", "reverse")
    ]
    assert graphs[0].metadata["plans"][0]["positions_packed"]
    torch.testing.assert_close(
        *(graph.weights("r", "o") for graph in graphs), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_activations_in_another_dtype(dtype):
    class Upcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x).float()).to(x.dtype))

    torch.manual_seed(0)
    model = Upcast().to(dtype)
    x = torch.randn(40, 5).to(dtype)
    graph = itg.interaction_graph(model, [x], ["a", "b"], n_steps=8, tolerance=None, progress=False)
    plain = nn.Sequential(model.a.double(), nn.Tanh(), model.b.double())
    exact = itg.interaction_graph(plain, [x.double()], ["0", "2"], progress=False)
    difference = graph.weights("a", "b").double() - exact.weights("0", "2")
    digits = 2e-2 if dtype == torch.bfloat16 else 1e-6
    assert float(difference.norm() / exact.weights("0", "2").norm()) < digits


def test_half_precision_keeps_small_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    x = torch.randn(200, 8) * 1e-2
    exact = itg.interaction_graph(model, [x], ["0", "2"], engine="reverse", progress=False)
    half = itg.interaction_graph(
        model, [x], ["0", "2"], engine="reverse", dtype=torch.float16, progress=False
    )
    for value in ("weights", "standard_error"):
        a, b = (getattr(graph, value)("0", "2") for graph in (half, exact))
        assert float((a - b).norm() / b.norm()) < 5e-3


def test_large_batches_are_cut_where_the_closed_form_fails():
    model = Tail(branch_by_a_tensor).double()
    x = torch.randn(300, 5, dtype=torch.float64)
    batches = [{"x": x[:100], "extra": torch.ones(100)}, {"x": x, "extra": -torch.ones(300)}]
    found = [
        itg.interaction_graph(
            model,
            batches,
            ["a", "c"],
            memory_budget=budget,
            n_steps=30,
            tolerance=None,
            progress=False,
        )
        for budget in (None, 60_000)
    ]
    assert found[0].metadata["n_samples"] == found[1].metadata["n_samples"] == 400
    torch.testing.assert_close(found[0].weights("a", "c"), found[1].weights("a", "c"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_computed_in_single(dtype):
    """As good as the same weights in single precision; asked for, half precision itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).to(dtype)
    x = torch.randn(20, 4).to(dtype)
    found = itg.interaction_graph(model, [x], ["0", "3"], progress=False)
    same = copy.deepcopy(model).float()
    expected = itg.interaction_graph(same, [x.float()], ["0", "3"], progress=False)
    assert torch.equal(found.weights("0", "3"), expected.weights("0", "3"))
    assert found.metadata["dtype"] == "float32"
    assert next(model.parameters()).dtype == dtype
    asked = itg.interaction_graph(model, [x], ["0", "3"], dtype=dtype, progress=False)
    assert asked.metadata["dtype"] == str(dtype).removeprefix("torch.")
