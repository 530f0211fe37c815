"""A from factors of positions and features: where patterns and scales are held fixed."""

import pytest
import torch
from frozen_blocks import BLOCKS, HEADS, WIDTH, Block, Frozen, Gated, network, samples
from reference import attributions, strengths
from torch import nn

import interactgraph as itg
from interactgraph.attribution import planner
from interactgraph.attribution.methods.factored_maps import FactoredMaps, Rows
from interactgraph.calculus import factored_operations
from interactgraph.calculus.position_factors import FeatureFactors
from interactgraph.calculus.tape import record

PAIR = ("0", "1")
NAMES = ("rms", "mean", "mean_abs", "max")
OPTIONS = {"freeze": ("attention", "layernorm"), "progress": False}


def run(net, data, **options):
    return itg.interaction_graph(net, data, list(PAIR), **{**OPTIONS, **options})


def method_of(graph):
    return graph.metadata["plans"][0]["method"]


@pytest.fixture
def without(monkeypatch):
    """Leaves out the method, as if it was not there."""

    def leave_out():
        others = tuple(each for each in planner.METHODS if not issubclass(each, FactoredMaps))
        monkeypatch.setattr(planner, "METHODS", others)

    return leave_out


def assert_same(one, other, names=NAMES):
    for name in names:
        torch.testing.assert_close(
            one.weights(*PAIR, name), other.weights(*PAIR, name), rtol=1e-9, atol=1e-13
        )
        if name != "max":
            torch.testing.assert_close(
                one.standard_error(*PAIR, name), other.standard_error(*PAIR, name), rtol=1e-7,
                atol=1e-13,
            )  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_it_is_the_integral_of_the_frozen_block(name):
    torch.manual_seed(0)
    net = network(Block(**BLOCKS[name]))
    data = [samples(3), samples(2, seed=2)]
    graph = run(net, data, strengths=NAMES)
    assert method_of(graph) == "factored_maps"
    assert graph.completeness[PAIR] < 1e-12
    a = []
    for x in data:
        z = net[0](x).detach()
        a.append(attributions(Frozen(net[1], z), z, torch.zeros_like(z), 24))
    expected = strengths(a)
    for each in NAMES:
        found = graph.weights(*PAIR, each).numpy()
        assert found == pytest.approx(expected[each], rel=1e-8, abs=1e-10)
    assert graph.standard_error(*PAIR).numpy() == pytest.approx(expected["rms_error"], rel=1e-7)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients(name):
    net, data = network(Block(**BLOCKS[name])), samples()
    graph = run(net, [data], method="gradient", engine="closed_form")
    assert method_of(graph) == "factored_maps"
    z = net[0](data).detach()
    a = attributions(Frozen(net[1], z), z, torch.zeros_like(z), None)
    expected = a.square().mean((0, 1)).sqrt()
    torch.testing.assert_close(graph.weights(*PAIR), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"features": "pca"},
        {"baseline": "mean"},
        {"skip": "remove"},
        {"memory_budget": 40_000},  # positions one by one, over pieces of samples
        {"position_mask": lambda x: x[..., 0] > -0.3},
        {"groups": [0, 1, 0, 1, 1], "folds": 2},
        {"max_edges": WIDTH**2, "strengths": ("rms",)},
        {"skip_positions": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_it_is_what_passes_give(options, without):
    torch.manual_seed(0)
    net = network(Block(causal=True))
    data = [samples(3), samples(2, length=3, seed=2)]
    options = {"strengths": NAMES, **options}
    graph = run(net, data, **options)
    without()
    other = run(net, data, **options)
    assert (method_of(graph), method_of(other)) == ("factored_maps", "closed_columns")
    if "max_edges" in options:
        graph, other = graph.to_dense(), other.to_dense()
    assert_same(graph, other, options["strengths"])
    for name, part in graph.groups.items():
        assert_same(part, other.groups[name])


def test_positions_one_at_a_time(monkeypatch, without):
    """Sums over parts of a sample do not read what later parts write."""
    net = network(Block())
    monkeypatch.setattr("interactgraph.attribution.methods.factored_maps._BLOCK", 1)
    graph = run(net, [samples()], strengths=NAMES)
    without()
    assert_same(graph, run(net, [samples()], strengths=NAMES))


def test_what_is_affine():
    """Attention alone, and its target a pointwise function: no maps behind, or no nonlinearity."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    class Attention(nn.Module):
        def __init__(self, after):
            super().__init__()
            self.attention, self.after = attention, after

        def forward(self, x):
            return self.after(self.attention(x, x, x, need_weights=False)[0])

    for after in (nn.Identity(), nn.GELU()):
        net = network(Attention(after))
        graph = run(net, [samples()], freeze="attention")
        assert method_of(graph) == "factored_maps"
        z = net[0](samples()).detach()
        pattern = attention(z, z, z, average_attn_weights=False)[1].detach()

        def frozen(x, pattern=pattern, after=after):
            weight, bias = attention.in_proj_weight[-WIDTH:], attention.in_proj_bias[-WIDTH:]
            values = (x @ weight.mT + bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            return after(attention.out_proj((pattern @ values).transpose(1, 2).flatten(2)))

        a = attributions(frozen, z, torch.zeros_like(z), 24)
        expected = a.square().mean((0, 1)).sqrt()
        torch.testing.assert_close(graph.weights(*PAIR), expected, rtol=1e-8, atol=1e-11)


class Perceptron(nn.Module):
    """A block that writes its result in some way of its own."""

    def __init__(self, way):
        super().__init__()
        self.way, self.mix = way, nn.Linear(4, 4)
        self.up, self.down = nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH)

    def forward(self, x):
        x = x + self.mix(x.mT).mT
        h = torch.tanh(self.up(x))
        if self.way == "mixed behind":
            return self.down(self.mix(h.mT).mT)
        if self.way == "side by side":
            return torch.cat([x, self.down(h)], -1)
        if self.way == "shifted behind":
            return self.down(h)[:, 1:]
        return self.down(h)


@pytest.mark.parametrize("way", ["mixed behind", "side by side", "shifted behind", "plain"])
def test_where_there_are_no_factors(way, without, monkeypatch):
    """Passes serve where positions are mixed behind the nonlinearity, or results put together."""
    torch.manual_seed(0)
    net = network(Perceptron(way))
    graph = run(net, [samples()], freeze=(), strengths=NAMES)
    assert (method_of(graph) == "factored_maps") == (way == "plain")
    without()
    other = run(net, [samples()], freeze=(), strengths=NAMES)
    assert_same(graph, other)
    monkeypatch.undo()
    if way in ("mixed behind", "shifted behind"):
        with pytest.raises(itg.InputError, match="positions=2: the target positions of 0 -> 1"):
            run(net, [samples()], freeze=(), positions=2)


def test_gated_perceptrons_stay_what_they_were(without):
    net = network(Gated())
    graph = run(net, [samples()], strengths=NAMES)
    without()
    other = run(net, [samples()], strengths=NAMES)
    assert method_of(graph) == method_of(other) != "factored_maps"
    assert torch.equal(graph.weights(*PAIR), other.weights(*PAIR))


def test_where_it_does_not_hold_on_a_batch_passes_go_on(monkeypatch):
    net = network(Block())
    data = [samples(), samples(seed=2)]
    expected = run(net, data, strengths=NAMES)
    found = FactoredMaps.factors
    calls = []

    def wrong(self, problem):
        factors, slopes, problem = found(self, problem)
        calls.append(problem)
        if len(calls) == 2:  # what was computed of the weights is off
            factors.features.before.mul_(1.001)
        return factors, slopes, problem

    monkeypatch.setattr(FactoredMaps, "factors", wrong)
    with pytest.warns(itg.InteractGraphWarning, match="closed_columns"):
        graph = run(net, data, strengths=NAMES)
    assert_same(graph, expected)


def test_several_lengths():
    """Weights are looked at once, whatever the shapes of later batches."""
    torch.manual_seed(0)
    net = network(Block(post=True))
    data = [samples(2), samples(1, length=1, seed=2), samples(3, length=2, seed=3)]
    graph = run(net, data, strengths=NAMES)
    a = []
    for x in data:
        z = net[0](x).detach()
        a.append(attributions(Frozen(net[1], z), z, torch.zeros_like(z), 24))
    expected = strengths(a)
    for each in NAMES:
        found = graph.weights(*PAIR, each).numpy()
        assert found == pytest.approx(expected[each], rel=1e-8, abs=1e-10)


def test_factors_that_do_not_fit_into_memory(monkeypatch):
    net = network(Block())
    expected = run(net, [samples()])
    monkeypatch.setattr(FeatureFactors, "n_bytes", 1 << 50)
    graph = run(net, [samples()])
    assert method_of(graph) == "closed_columns"
    torch.testing.assert_close(graph.weights(*PAIR), expected.weights(*PAIR))
    with pytest.raises(itg.InputError, match="GiB are free"):
        run(net, [samples()], positions=2, engine="closed_form")


def test_operations_that_are_called_otherwise(monkeypatch):
    """What a walk does not expect leaves the pair to other ways."""

    def unexpected(walk, node):
        raise IndexError("tuple index out of range")

    monkeypatch.setitem(factored_operations.OPERATIONS, "addmm", unexpected)
    graph = run(network(Block()), [samples()])
    assert method_of(graph) == "closed_columns"


def test_what_a_batch_decides_is_recorded_once_for_it(monkeypatch):
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.block = nn.Linear(WIDTH, WIDTH), Block()

        def forward(self, x):
            y = self.first(x)
            return self.block(y) * (2.0 if bool((x > 0).all()) else 1.0)

    torch.manual_seed(0)
    net, data = Deciding().double(), [samples(), samples(seed=2).abs()]
    made = []

    def counted(function, arguments):
        made.append(arguments)
        return record(function, arguments)

    monkeypatch.setattr("interactgraph.attribution.segment_records.record", counted)
    graph = itg.interaction_graph(net, data, ["first", "output"], **OPTIONS)
    assert method_of(graph) == "factored_maps"
    assert len(made) <= 3  # to plan, and for every batch
    a = []
    for x, factor in zip(data, (1, 2), strict=True):
        z = net.first(x).detach()
        a.append(factor * attributions(Frozen(net.block, z), z, torch.zeros_like(z), 24))
    expected = torch.cat(a).square().mean((0, 1)).sqrt()
    torch.testing.assert_close(graph.weights("first", "output"), expected, rtol=1e-8, atol=0)


def test_parts_of_rows():
    rows = Rows(torch.arange(9), [0, 2, 2, 0, 3, 2, 0], [1.0] * 7)
    parts = [
        [(s.start, s.stop, r.start, r.stop, end) for s, r, end in rows.parts(slice(a, b))]
        for a, b in ((0, 5), (5, 9))
    ]
    assert parts == [
        [(1, 3, 0, 4, True), (4, 5, 4, 5, False)],
        [(4, 5, 0, 2, True), (5, 6, 2, 4, True)],
    ]


class Written(nn.Module):
    """Positions first, or a mean over them."""

    def __init__(self, way):
        super().__init__()
        self.way, self.up, self.down = way, nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH)

    def forward(self, x):
        if self.way == "mean":
            return self.down(torch.tanh(self.up(x + x.mean(1, keepdim=True))))
        h = torch.tanh(self.up((x + x.mean(1, keepdim=True)).transpose(0, 1)))
        return self.down(h).transpose(0, 1)


@pytest.mark.parametrize("way", ["mean", "positions first"])
def test_one_set_of_factors_serves_batches_of_all_lengths(way, without):
    torch.manual_seed(0)
    data = [samples(3, 4), samples(2, 6, seed=2), samples(1, 5, seed=3)]
    net = network(Written(way))
    graph = run(net, data, freeze=(), strengths=NAMES)
    assert method_of(graph) == "factored_maps"
    assert not [note for note in graph.notes if "fails" in note]
    without()
    assert_same(graph, run(net, data, freeze=(), strengths=NAMES))


def test_factors_count_against_the_memory_of_the_run(monkeypatch):
    methods, init = [], FactoredMaps.__init__

    def remember(self, context):
        init(self, context)
        methods.append(self)

    monkeypatch.setattr(FactoredMaps, "__init__", remember)
    run(network(Block()), [samples()])
    users = [user for user in methods[0].context.sums.memory.users if user.n_bytes]
    assert sum(isinstance(user, FeatureFactors) for user in users) == 1
