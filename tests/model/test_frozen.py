"""Attention patterns and scales of normalisations held at the values of the samples."""

import pytest
import torch
from reference import attributions
from torch import nn
from torch.nn import functional as F

import interactgraph as itg

WIDTH, POSITIONS = 6, 4


class OwnRMS(nn.Module):
    """Normalises to a root mean square of one, as many models write it."""

    def __init__(self, root):
        super().__init__()
        self.root = root

    def forward(self, x):
        square = x.pow(2).mean(-1, keepdim=True) + 1e-6
        return x / square.sqrt() if self.root == "sqrt" else x * (square.rsqrt())


class PowerRMS(nn.Module):
    def forward(self, x):
        return x * torch.pow(x.square().mean(-1, keepdim=True) + 1e-6, -0.5)


class UnitNorm(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "normalize":
            return F.normalize(x, dim=-1)
        return x / (x.norm(dim=-1, keepdim=True) + 1e-3)


class StdNorm(nn.Module):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


class Channels(nn.Module):
    """A group norm over the features of every position by itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, WIDTH, dtype=torch.float64)
        self.norm.weight.data.normal_()
        self.norm.bias.data.normal_()

    def forward(self, x):
        return self.norm(x.flatten(0, 1)).reshape(x.shape)


class Attention(nn.Module):
    """One head, its pattern in one of the ways in which it is written."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.maps = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.maps(x).chunk(3, -1)
        if self.way == "fused":
            return F.scaled_dot_product_attention(q, k, v)
        if self.way == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
        if self.way == "masked":
            mask = torch.zeros(POSITIONS, POSITIONS, dtype=q.dtype).fill_diagonal_(-torch.inf)
            return F.scaled_dot_product_attention(q, k, v, mask)
        if self.way == "grouped":
            q, k, v = (x.unflatten(-1, (6, 1)).transpose(1, 2) for x in (q, k, v))
            y = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
            return y.transpose(1, 2).flatten(2)
        scores = q @ k.mT / WIDTH**0.5
        pattern = {
            "function": lambda: F.softmax(scores, dim=-1),
            "method": lambda: scores.softmax(-1),
            "torch": lambda: torch.softmax(scores, dim=2),
        }[self.way]()
        return pattern @ v

    def pattern(self, x):
        """The pattern by the formula, `[b, t, s]`, of the ways with one head."""
        q, k, _ = self.maps(x).chunk(3, -1)
        scores = q @ k.mT * (0.7 if self.way == "causal" else WIDTH**-0.5)
        if self.way == "causal":
            later = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if self.way == "masked":
            scores = scores.masked_fill(torch.eye(POSITIONS, dtype=torch.bool), -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return weights / weights.sum(-1, keepdim=True)


class Itself(nn.Module):
    """nn.MultiheadAttention on itself."""

    def __init__(self, weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.weights = weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.weights)[0]


def network(middle):
    torch.manual_seed(0)
    first, last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(first, middle, last).double()


def samples():
    return torch.randn(3, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def assert_frozen(net, frozen, what, **options):
    """A graph from layer 0 to layer 2 is that of the function given.

    Args:
        net: three modules.
        frozen: (activation of layer 0, the same at the samples) -> result of module 1.
        what: is frozen.
        options: of the run.
    """
    x = samples()
    at = net[0](x).detach()
    reference = attributions(lambda z: net[2](frozen(z, at)), at, torch.zeros_like(at), 4)
    expected = reference.square().mean((0, 1)).sqrt()
    free = itg.interaction_graph(net, [x], ["0", "2"], tolerance=None, n_steps=4, progress=False)
    for engine in ("auto", "forward", "reverse"):
        graph = itg.interaction_graph(
            net, [x], ["0", "2"], freeze=what, tolerance=None, n_steps=4, engine=engine,
            progress=False, **options,
        )  # fmt: skip
        torch.testing.assert_close(graph.weights("0", "2"), expected, rtol=1e-9, atol=1e-12)
        assert graph.completeness["0", "2"] < 1e-9
    assert float((free.weights("0", "2") - expected).norm() / expected.norm()) > 1e-2


NORMS = {
    "layer_norm": lambda: nn.LayerNorm(WIDTH),
    "rms_norm": lambda: nn.RMSNorm(WIDTH, eps=1e-6),
    "rms_norm_default": lambda: nn.RMSNorm(WIDTH),
    "sqrt": lambda: OwnRMS("sqrt"),
    "rsqrt": lambda: OwnRMS("rsqrt"),
    "power": PowerRMS,
    "normalize": lambda: UnitNorm("normalize"),
    "norm": lambda: UnitNorm("norm"),
    "std": StdNorm,
}


@pytest.mark.parametrize("name", NORMS)
def test_scales(name):
    middle = NORMS[name]()
    for parameter in middle.parameters():
        parameter.data.normal_()
    net = network(middle)
    centred, bias = name in ("layer_norm", "std"), getattr(middle, "bias", None)
    bias = 0 if bias is None else bias

    def frozen(z, at):
        # What is left with a fixed scale is linear, so that quotients at the samples tell it.
        mean = (lambda v: v.mean(-1, keepdim=True)) if centred else (lambda v: 0)
        factors = (middle(at) - bias) / (at - mean(at))
        return (z - mean(z)) * factors + bias

    assert_frozen(net, frozen, "layernorm")


def test_group_norms():
    net = network(Channels())

    def frozen(z, at):
        weight, bias = net[1].norm.weight, net[1].norm.bias
        halves = [v.unflatten(-1, (2, WIDTH // 2)) for v in (z, at)]
        z, at = (v - v.mean(-1, keepdim=True) for v in halves)
        y = z / (at.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return y.flatten(-2) * weight + bias

    assert_frozen(net, frozen, "layernorm")


@pytest.mark.parametrize("way", ["fused", "causal", "masked", "function", "method", "torch"])
def test_patterns(way):
    net = network(Attention(way))

    def frozen(z, at):
        return net[1].pattern(at) @ net[1].maps(z).chunk(3, -1)[2]

    assert_frozen(net, frozen, ["attention"])


@pytest.mark.parametrize("weights", [True, False])
def test_patterns_of_torch_modules(weights):
    net = network(Itself(weights))
    module = net[1].attention

    def frozen(z, at):
        pattern = module(at, at, at)[1].detach()
        values = F.linear(z, module.in_proj_weight[-WIDTH:], module.in_proj_bias[-WIDTH:])
        return module.out_proj(pattern @ values)

    assert_frozen(net, frozen, "attention")


def test_heads_that_share_keys():
    """Six heads of one coordinate; the first three read the first key and value."""
    net = network(Attention("grouped"))

    def frozen(z, at):
        q, k, _ = net[1].maps(at).chunk(3, -1)
        v = net[1].maps(z).chunk(3, -1)[2]
        heads = []
        for h in range(6):
            pattern = (q[..., h, None] * k[..., h // 3][:, None]).softmax(-1).detach()
            heads.append(pattern @ v[..., h // 3, None])
        return torch.cat(heads, -1)

    assert_frozen(net, frozen, "attention")


def test_samples_of_edges_are_those_of_the_frozen_segment():
    net = network(Attention("fused"))
    x = samples()
    options = {"freeze": "attention", "strengths": ("max",), "progress": False}
    graph = itg.interaction_graph(net, [x], ["0", "2"], **options)
    edges = itg.top_samples(graph.prune(top_k=4), net, [x], k=1, progress=False)["0", "2"]
    largest = graph.weights("0", "2").flatten().topk(4).values
    found = edges.values.flatten().abs().sort(descending=True).values
    torch.testing.assert_close(found.double(), largest, rtol=1e-5, atol=0)


def test_a_block_has_a_closed_form():
    """Everything frozen leaves one nonlinearity, whose closed form needs no nodes."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(
        WIDTH, 2, 12, activation="gelu", batch_first=True, norm_first=True
    )
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), block).double()
    options = {"freeze": ("layernorm", "attention"), "progress": False}
    graph = itg.interaction_graph(net, [samples()], ["0", "1"], **options)
    plan = graph.metadata["plans"][0]
    assert plan["engine"] == "closed_form"
    fine = itg.interaction_graph(
        net, [samples()], ["0", "1"], engine="forward", tolerance=1e-10, n_steps=128, **options
    )
    torch.testing.assert_close(
        graph.weights("0", "1"), fine.weights("0", "1"), rtol=1e-8, atol=1e-10
    )
    assert graph.metadata["freeze"] == ["attention", "layernorm"]


def test_batches_have_values_of_their_own():
    """Two batches, and pieces of one as small as memory allows, give what one batch gives."""
    net = network(Attention("fused"))
    options = {"freeze": "attention", "progress": False}
    x = samples()
    one = itg.interaction_graph(net, [x], ["0", "2"], **options)
    two = itg.interaction_graph(net, [x[:1], x[1:]], ["0", "2"], **options)
    drawn = itg.interaction_graph(net, [x], ["0", "2"], sources=WIDTH, **options)
    for graph in (two, drawn):
        torch.testing.assert_close(
            graph.weights("0", "2"), one.weights("0", "2"), rtol=1e-9, atol=1e-12
        )


class Net(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("middle", [Attention("fused"), Attention("method"), OwnRMS("rsqrt")])
def test_programs(middle):
    """What torch.export writes down is frozen as the module is, which calls functions of torch."""
    net, x = network(middle), samples()
    what = "attention" if isinstance(middle, Attention) else "layernorm"
    options = {"freeze": what, "progress": False}
    size = {"x": {0: torch.export.Dim("n", min=2)}}
    program = torch.export.export(Net(net), (x,), dynamic_shapes=size)
    one = itg.interaction_graph(net, [x], ["0", "2"], **options)
    graph = itg.interaction_graph(program, [x], ["net.0", "net.2"], **options)
    torch.testing.assert_close(
        graph.weights("net.0", "net.2"), one.weights("0", "2"), rtol=1e-9, atol=1e-12
    )


def test_ablation_with_frozen_patterns():
    net = network(Attention("fused"))
    x = samples()
    graph = itg.interaction_graph(
        net, [x], ["0", "2"], freeze="attention", method="ablation", progress=False
    )
    at = net[0](x).detach()

    def frozen(z):
        return net[2](net[1].pattern(at) @ net[1].maps(z).chunk(3, -1)[2])

    columns = []
    for j in range(WIDTH):
        less = at.clone()
        less[..., j] = 0
        columns.append((frozen(at) - frozen(less)).square().mean((0, 1)).sqrt())
    torch.testing.assert_close(graph.weights("0", "2"), torch.stack(columns, 1).detach())


def test_routers_are_differentiated():
    class Router(nn.Module):
        def forward(self, x):
            flat = x.flatten(0, 1)
            return (flat * flat.softmax(-1)).reshape(x.shape)

    net = network(Router())
    with pytest.raises(itg.InteractGraphError, match="no softmax of attention"):
        itg.interaction_graph(net, [samples()], ["0", "2"], freeze="attention", progress=False)


def test_values_that_are_worked_on_in_place():
    class InPlace(nn.Module):
        def forward(self, x):
            pattern = torch.softmax(x @ x.mT, -1)
            pattern *= 0.5
            size = x.norm(dim=-1, keepdim=True)
            size += 0.1
            return pattern @ x / size

    def frozen(z, at):
        pattern = torch.softmax(at @ at.mT, -1) * 0.5
        return pattern @ z / (at.norm(dim=-1, keepdim=True) + 0.1)

    assert_frozen(network(InPlace()), frozen, ("attention", "layernorm"))


def test_queries_that_all_samples_share():
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Parameter(torch.randn(1, 2, WIDTH))

        def forward(self, x):
            return F.scaled_dot_product_attention(self.query, x, x)

    net = network(Learnt())

    def frozen(z, at):
        pattern = torch.softmax(net[1].query @ at.mT / WIDTH**0.5, -1)
        return pattern.detach() @ z

    assert_frozen(net, frozen, "attention")


def test_half_precision():
    """A model in bfloat16 is computed in single precision, in samples of its edges, too."""
    net = network(nn.LayerNorm(WIDTH)).bfloat16()
    x = samples().bfloat16()
    options = {"freeze": "layernorm", "progress": False}
    graph = itg.interaction_graph(net, [x], ["0", "2"], **options)
    assert graph.metadata["frozen"] == {"0 -> 2": {"layernorm": 1}}
    itg.top_samples(graph.prune(top_k=3), net, [x], k=1, progress=False)
    with pytest.raises(itg.InputError, match=r"dtype=torch\.bfloat16"):
        itg.interaction_graph(net, [x], ["0", "2"], dtype=torch.bfloat16, **options)


def test_values_that_decide():
    class Deciding(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1) if float(x.detach().sum()) > 0 else x

    net = network(Deciding())
    x = samples()
    with torch.no_grad():
        sign = net[0](x).sum().sign()
        net[0].weight.mul_(sign)
        net[0].bias.mul_(sign)
    with pytest.raises(itg.InteractGraphError, match="executes other operations"):
        itg.interaction_graph(
            net, [x], ["0", "2"], freeze="attention", engine="reverse", baseline=-torch.ones(()),
            progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("value", ["norm", ("attention", "mlp"), 3])
def test_unknown_names(value):
    with pytest.raises(itg.InteractGraphError, match="freeze="):
        itg.interaction_graph(network(nn.Tanh()), [samples()], ["0", "2"], freeze=value)
