"""The mean squared Jacobian from moments of slopes, against Jacobians of every sample."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interactgraph.calculus.path import PathRule
from interactgraph.calculus.second_moments import AffineNonlinearAffine
from interactgraph.features.jacobians import MeanSquareJacobian
from interactgraph.features.local_segment import LocalSegment

POSITIONS, NEURONS = 3, 6


class Skipping(nn.Module):
    """x + W2 phi(W1 x), position by position."""

    def __init__(self, phi):
        super().__init__()
        self.up, self.down, self.phi = nn.Linear(NEURONS, 8), nn.Linear(8, NEURONS), phi

    def forward(self, x):
        return x + self.down(self.phi(self.up(x)))


class AcrossPositions(nn.Module):
    """A convolution over positions, and one back."""

    def __init__(self):
        super().__init__()
        self.there = nn.Conv1d(NEURONS, 5, 2, padding=1)
        self.back = nn.Conv1d(5, 4, 2)

    def forward(self, x):
        return self.back(F.gelu(self.there(x.mT))).mT


SEGMENTS = {
    "one bend and a skip": lambda: Skipping(torch.relu),
    "smooth": lambda: Skipping(F.gelu),
    "two bends of one pre-activation": lambda: nn.Sequential(
        Skipping(lambda p: torch.cat([p.tanh(), p.square()], -1)[..., ::2])
    ),
    "ends in the bend": lambda: nn.Sequential(nn.Linear(NEURONS, 7), nn.SiLU()),
    "bends first": lambda: nn.Sequential(nn.Sigmoid(), nn.Linear(NEURONS, 7)),
    "across positions": AcrossPositions,
}


def by_hand(function, points, origin=None, path=((1.0,), (1.0,))):
    """M from the Jacobian of every sample."""
    n, total = 0, 0
    for x in torch.cat(points):
        jacobian = 0
        for u, weight in zip(*path, strict=True):
            at = x if origin is None else origin + u * (x - origin)
            jacobian = jacobian + weight * torch.autograd.functional.jacobian(
                lambda z: function(z[None])[0], at
            )
        total = total + torch.einsum("tisj,tisk->jk", jacobian, jacobian)
        n += len(x)
    return total / n


def collect(function, points, **options):
    found = MeanSquareJacobian(NEURONS, **options)
    for x in points:
        y = function(x)
        found.add(LocalSegment(function, x, y.shape[-1], y.shape[1]))
    return found


def batches(sizes=(5, 5, 2, 1)):
    torch.manual_seed(1)
    return [torch.randn(n, POSITIONS, NEURONS, dtype=torch.float64) for n in sizes]


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("sizes", [(5, 5, 2), (1, 1, 3)])
def test_it_is_the_mean_of_squared_jacobians(name, sizes):
    torch.manual_seed(0)
    function = SEGMENTS[name]().double()
    points = batches(sizes)
    found = collect(function, points)
    assert found.way == "closed form"
    expected = by_hand(function, points)
    torch.testing.assert_close(found.mean, expected, rtol=0, atol=1e-12 * expected.abs().max())


def test_averages_over_the_path():
    torch.manual_seed(0)
    function = Skipping(F.gelu).double()
    points, origin = batches(), torch.randn(NEURONS, dtype=torch.float64)
    path = ((0.2, 0.7, 1.0), (0.25, 0.5, 0.25))
    found = collect(function, points, rule=PathRule(*path), origin=origin)
    assert found.way == "closed form"
    expected = by_hand(function, points, origin, path)
    torch.testing.assert_close(found.mean, expected, rtol=1e-11, atol=1e-13)


def test_single_precision():
    torch.manual_seed(0)
    function = Skipping(F.gelu)
    points = [x.float() for x in batches()]
    found = collect(function, points)
    assert (found.way, found.mean.dtype) == ("closed form", torch.float64)
    torch.testing.assert_close(found.mean, by_hand(function, points).double(), rtol=1e-5, atol=1e-6)


def test_coefficients_that_change_between_batches():
    """The first batches by moments, those with other coefficients one row after the other."""
    torch.manual_seed(0)
    inner = Skipping(F.gelu).double()
    points = batches()
    found, expected = MeanSquareJacobian(NEURONS), 0
    for number, x in enumerate(points):
        scale = 1.0 if number < 2 else 0.5 + torch.rand(POSITIONS, 1, dtype=torch.float64)

        def function(z, scale=scale):
            return inner(z) * scale

        found.add(LocalSegment(function, x, NEURONS, POSITIONS))
        expected = expected + by_hand(function, [x]) * len(x)
    assert found.way == "rows"
    torch.testing.assert_close(found.mean, expected / sum(map(len, points)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.softmax(-1),
        lambda z: z * z.roll(1, -1),
        lambda z: z.tanh().cumsum(-1).relu(),
        # Positions first on the way, as recurrent layers have it.
        lambda z: (z.transpose(0, 1).contiguous() * 2).tanh().transpose(0, 1),
    ],
)
def test_what_is_no_such_segment_goes_row_by_row(function):
    points = batches((4, 3))[1:]
    found = collect(function, points)
    expected = by_hand(function, points)
    torch.testing.assert_close(found.mean, expected, rtol=1e-10, atol=1e-13)


def test_masked_positions_are_left_to_the_rows():
    torch.manual_seed(0)
    function = Skipping(F.gelu).double()
    (x,) = batches((4,))
    mask = torch.tensor([[True, True, False]] * 4)
    found = MeanSquareJacobian(NEURONS)
    found.add(LocalSegment(function, x, NEURONS, POSITIONS, mask, mask))
    assert found.way == "rows"
    expected = by_hand(function, [x[:, :2]])
    torch.testing.assert_close(found.mean, expected, rtol=1e-11, atol=1e-13)


def test_few_probes_are_cheaper_than_many_hidden_units():
    torch.manual_seed(0)
    function = nn.Sequential(nn.Linear(NEURONS, 200), nn.Tanh(), nn.Linear(200, NEURONS)).double()
    points = [x[:, :1] for x in batches()]
    assert collect(function, points, n_probes=2).way == "probes"
    assert collect(function, points).way == "rows"


def test_a_step_among_the_bends():
    function = nn.Sequential(nn.Linear(NEURONS, 8), Stepping()).double()
    points = batches()
    found = collect(function, points)
    torch.testing.assert_close(found.mean, by_hand(function, points), rtol=1e-10, atol=1e-13)


class Stepping(nn.Module):
    """A ReLU, and whether it is on."""

    def forward(self, p):
        return torch.cat([p.relu(), (p > 0).to(p)], -1)


def test_matrices_that_would_be_larger_than_the_work_are_not_made(monkeypatch):
    """A wide source and many target positions: C alone would be large."""
    monkeypatch.setattr(AffineNonlinearAffine, "matrices", lambda self: pytest.fail("made"))
    monkeypatch.setattr("interactgraph.features.jacobians._ENTRIES", 500)
    function = Skipping(F.gelu).double()
    assert collect(function, batches()).way == "rows"
    monkeypatch.setattr("interactgraph.features.jacobians._ENTRIES", 1 << 25)
    monkeypatch.setattr("interactgraph.features.jacobians._MATRICES", 0)
    assert collect(function, batches()).way == "rows"


class Folded(nn.Module):
    """Batch and positions in one axis on the way, or in the other order."""

    def __init__(self, how):
        super().__init__()
        self.up, self.down, self.how = nn.Linear(NEURONS, 8), nn.Linear(8, NEURONS), how

    def forward(self, x):
        if self.how == "folded":
            inner = self.down(self.up(x.reshape(-1, NEURONS)).relu()).reshape(x.shape)
        else:
            inner = self.down(self.up(x.transpose(0, 1)).relu()).transpose(0, 1)
        return x + inner


@pytest.mark.parametrize("how", ["folded", "positions first"])
@pytest.mark.parametrize("sizes", [(5, 5, 2), (1, 1, 3)])
def test_other_layouts_on_the_way(how, sizes):
    torch.manual_seed(0)
    function, points = Folded(how).double(), batches(sizes)
    found = collect(function, points)
    assert found.way == "closed form" or how != "folded"
    torch.testing.assert_close(found.mean, by_hand(function, points), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_sample", [True, False])
def test_a_neuron_in_large_units_is_looked_at_too(dtype, by_sample):
    """Its slope is small, and depends on the batch or the sample."""
    torch.manual_seed(0)
    inner = Skipping(F.gelu).to(dtype)
    found, expected = MeanSquareJacobian(NEURONS), 0
    for number, x in enumerate(batches((6, 6, 6))):
        x = torch.cat([x[..., :1] * 1e5, x[..., 1:]], -1).to(dtype)
        steps = torch.arange(6.0) if by_sample else torch.full((6,), float(number))
        factors = (1e-5 * (1 + steps)).to(dtype)[:, None, None]

        def function(z, factors=factors):
            return inner(torch.cat([z[..., :1] * factors, z[..., 1:]], -1))

        found.add(LocalSegment(function, x, NEURONS, POSITIONS))
        for k in range(6):
            one = slice(k, k + 1)
            part = by_hand(partial(function, factors=factors[one]), [x[one]])
            expected = expected + part.double() / 18
    scale = torch.tensor([1e5, 1, 1, 1, 1, 1], dtype=torch.float64)
    scale = scale[:, None] * scale
    torch.testing.assert_close(found.mean * scale, expected * scale, rtol=1e-4, atol=1e-4)
