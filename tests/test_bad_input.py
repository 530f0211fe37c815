"""Bad input: one clear message each, and the model is left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import interactgraph as itg
from interactgraph import InteractGraphError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def run(model, data, layers=("input", "1"), **options):
    return itg.interaction_graph(model, data, layers, progress=False, **options)


def fails(match, model, data=None, layers=("input", "1"), **options):
    before = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ]
    gradients = [p.requires_grad for p in model.parameters()]
    with pytest.raises(InteractGraphError, match=match):
        run(model, [X] if data is None else data, layers, **options)
    after = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ]
    assert after == before
    assert [p.requires_grad for p in model.parameters()] == gradients


def test_unknown_layer_suggests_near_misses(model):
    named = nn.Sequential()
    named.add_module("encoder", model)
    fails(
        r"layer 'encodr' is not in the model; did you mean 'encoder'",
        named,
        None,
        ["encodr", "output"],
    )


def test_layers_are_matched_exactly():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)])
    graph = run(model, [X], ["1", "10"])
    assert graph.layers == ("1", "10")


def test_layers_in_the_wrong_order(model):
    fails(
        r"'2' runs after '1', so it cannot be its source; .*\['1', '2'\]", model, None, ["2", "1"]
    )


def test_layer_that_is_not_executed(model):
    model.spare = nn.Identity()

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    fails(r"'spare' is not executed", Skips(), None, ["input", "spare"])


def test_layer_that_is_executed_twice():
    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(self.act(x)))

    fails(r"'act' is executed twice", Reuses(), None, ["input", "act"])


def test_integer_activations_as_a_source():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    tokens = torch.randint(0, 10, (4, 6))
    fails(r"'input' holds torch.int64 values.*embedding", model, [tokens], ["input", "1"])
    assert run(model, [tokens], ["0", "1"]).n_features == {"0": 4, "1": 3}


def test_values_that_are_not_finite(model):
    bad = X.clone()
    bad[3, 1] = float("nan")
    fails(r"'input' holds values that are not finite in batch 1 \(samples \[3\]\)", model, [X, bad])
    fails(r"'input'.*not finite in batch 0", model, [bad])


@pytest.mark.parametrize("data", [[], [X[:0]], X[:0]])
def test_empty_data(model, data):
    fails(r"no batch|is empty|no samples", model, data)


def test_generator(model):
    fails(r"generator, which can be iterated only once", model, (x for x in [X]))


class Once:
    """Can be iterated, but only the first time."""

    def __init__(self):
        self.batches = iter([X[:3], X[3:6], X[6:]])

    def __iter__(self):
        return self.batches


def test_data_that_ends_after_one_pass(model):
    whole = run(model, [X])
    # One pass is enough where nothing has to be fitted; the batch that was looked at counts.
    once = run(model, Once())
    assert once.metadata["n_samples"] == len(X)
    torch.testing.assert_close(once.weights("input", "1"), whole.weights("input", "1"))
    fails(r"gave 3 batches in one pass and 0 in the next", model, Once(), baseline="mean")


def test_empty_batches_between_others(model):
    data = [X[:0], X[:5], X[:0], X[5:]]
    for baseline in ("zero", "mean"):
        found, whole = (run(model, d, baseline=baseline) for d in (data, [X]))
        assert found.metadata["n_samples"] == len(X)
        torch.testing.assert_close(found.weights("input", "1"), whole.weights("input", "1"))


def test_orders_that_change(model):
    data = TensorDataset(X, torch.arange(8) % 2)
    shuffled = torch.utils.data.BatchSampler(
        torch.utils.data.SubsetRandomSampler(range(8)), 2, False
    )
    for loader in (
        DataLoader(data, batch_size=2, shuffle=True),
        DataLoader(data, batch_sampler=shuffled),
        DataLoader(data, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 8, 8)),
    ):
        fails(r"same order each time", model, loader, groups=[0, 1] * 4)
    run(model, DataLoader(data, batch_sampler=[[0, 1, 2, 3], [4, 5, 6, 7]]), groups=[0, 1] * 4)


def test_groups_for_more_samples_than_there_are(model):
    graph = run(model, [X], groups=[0, 1] * 5)
    assert "groups names 10 samples and the data has 8" in graph.metadata["notes"][0]


def test_no_model_and_no_numbers(model):
    with pytest.raises(InteractGraphError, match=r"function; a torch.nn.Module is needed"):
        run(lambda x: x, [X])
    fails(r"fails on batch 0 \(tensors of shape \[\(8, 7\)\]\)", model, [torch.randn(8, 7)])
    fails(r"fails on batch 1", model, [X, torch.randn(8, 7)])
    fails(r"data holds torch.int64", model, [torch.ones(8, 4, dtype=torch.int64)])
    fails(r"numpy array; give torch.from_numpy", model, X.numpy())
    fails(r"single samples", model, list(X))
    with pytest.raises(InteractGraphError, match="run the model once first"):
        run(nn.Sequential(nn.LazyLinear(3), nn.ReLU()), [X])


def test_what_a_model_casts_itself():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x):
            return self.b(torch.tanh(self.a(x.double())))

    assert run(Casts(), [X], ["a", "b"]).metadata["n_samples"] == 8


def test_data_that_the_model_changes_is_left_alone():
    class Normalises(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            x.mul_(0.5)
            return self.b(torch.tanh(self.a(x)))

    model = Normalises().double()
    x = X.double()
    given = x.clone()
    found = run(model, [given], ["a", "b"])
    assert torch.equal(given, x)
    plain = nn.Sequential(model.a, nn.Tanh(), model.b)
    torch.testing.assert_close(
        found.weights("a", "b"), run(plain, [x / 2], ["0", "2"]).weights("0", "2")
    )


@pytest.mark.parametrize("budget", [None, 20_000])
def test_batches_are_cut_along_samples_only(budget):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, scale, x):
            return self.b(torch.tanh(self.a(x) * scale[:, None]))

    model = Scaled().double()
    scale = torch.rand(20, dtype=torch.float64)
    batches = [
        {"scale": scale, "x": torch.randn(n, 20, 4, dtype=torch.float64)} for n in (25, 20, 3)
    ]
    nodes = {"n_steps": 8, "tolerance": None}
    found = run(model, batches, ["a", "b"], memory_budget=budget, **nodes)
    assert found.metadata["n_samples"] == 48
    exact = run(model, batches, ["a", "b"], engine="reverse", **nodes)
    torch.testing.assert_close(found.weights("a", "b"), exact.weights("a", "b"))


def test_model_that_wants_its_own_batch_size():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            if len(x) != 50:
                raise ValueError("batches of 50, please")
            return torch.tanh(self.a(x))

    assert run(Fixed(), torch.randn(100, 4).split(50), ["input", "a"]).metadata["n_samples"] == 100


def test_inference_mode(model):
    with torch.inference_mode():
        inside = run(model, [X.clone()], engine="forward")
    torch.testing.assert_close(
        inside.weights("input", "1"), run(model, [X], engine="forward").weights("input", "1")
    )


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (TensorDataset(X), r"Dataset, which yields single samples"),
        (5, r"int; it must be a re-iterable"),
        ([object()], r"a batch is a object; .*forward="),
        ([("text",)], r"a batch is a tuple that starts with a str"),
    ],
)
def test_data_of_another_kind(model, data, match):
    fails(match, model, data)


def test_batches_of_varying_length():
    model = nn.Identity()
    fails(
        r"'input' has 6 features in batch 1 and had 4 in the first one; .*Pad",
        model, [X, torch.randn(3, 6)], ["input", "output"],
    )  # fmt: skip


def test_model_in_another_dtype_than_the_data(model):
    fails(r"computes in torch.float64 and the data is torch.float32; give dtype=torch.float64",
          model.double())  # fmt: skip
    assert run(model, [X], dtype=torch.float64).weights("input", "1").dtype == torch.float64


def test_model_on_another_device_than_the_data(model):
    batch = X.to("meta")
    fails(r"the model is on cpu and the data on meta; give device='cpu'", model, [batch])


def test_conversion_leaves_the_model_alone(model):
    graph = run(model, [X], dtype=torch.float64)
    assert model[0].weight.dtype == torch.float32
    assert graph.weights("input", "1").dtype == torch.float64


def test_dropout_left_on():
    class AlwaysDrops(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return F.dropout(self.linear(x), training=True)

    fails(r"does not repeat itself", AlwaysDrops(), None, ["input", "output"])
    usual = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    a, b = (run(usual, [X], ["input", "1"]).weights("input", "1") for _ in range(2))
    assert torch.equal(a, b)
    assert usual.training
    assert usual[1].training


def test_samples_that_influence_each_other():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    fails(r"samples of a batch influence each other", Centred(), None, ["input", "output"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": ["input"]}, r"at least two are needed"),
        ({"layers": "input"}, r"at least two are needed"),
        ({"layers": ["input", "1", "input"]}, r"'input' is named twice"),
        ({"pairs": [("input", "7")]}, r"pairs name '7'"),
        ({"pairs": [("1", "1")]}, r"must differ"),
        ({"strengths": ["rsm"]}, r"choose one or more.*rms"),
        ({"strengths": []}, r"choose one or more"),
        ({"method": "ig"}, r"method='ig' is unknown"),
        ({"engine": "fast"}, r"engine='fast' is unknown"),
        ({"n_steps": 0}, r"n_steps=0"),
        ({"baseline": "median"}, r"baseline 'median'.*unknown"),
        ({"baseline": torch.zeros(7)}, r"baseline of layer 'input' has shape \(7,\)"),
        ({"baseline": torch.full((4,), torch.nan)}, r"not finite"),
        ({"baseline": {"9": "zero"}}, r"baseline names \['9'\]"),
        ({"features": "atoms"}, r"features of layer 'input' are 'atoms'"),
        ({"features": {"9": "neurons"}}, r"features name \['9'\]"),
        ({"features": itg.features.Neurons(feature_dim=3)}, r"feature_dim=3 does not fit"),
        ({"features": itg.features.Linear(torch.eye(3))}, r"reads 3 coordinates"),
        ({"labels": {"1": ["a"]}}, r"5 features and 1 labels"),
        ({"labels": {"9": ["a"]}}, r"labels name '9'"),
        ({"position_mask": "mask"}, r"position_mask='mask' is no key"),
        ({"position_mask": lambda b: torch.ones(8)}, r"must give a tensor \[samples, positions\]"),
        ({"memory_budget": 100}, r"more than the memory budget"),
        ({"memory_budget": 0}, r"memory_budget=0"),
        ({"n_steps": None}, r"n_steps=None must be a whole number"),
        ({"tolerance": "0.1"}, r"tolerance='0.1' must be a number above 0"),
        ({"n_steps": float("inf")}, r"n_steps=inf"),
        ({"seed": None}, r"seed=None"),
        ({"sources": 1.5}, r"sources=1.5"),
        ({"strengths": None}, r"choose one or more"),
        ({"labels": {"input": 5}}, r"labels must give a list"),
        ({"pairs": [("input", "1", "2")]}, r"pairs must be \(source, target\)"),
        ({"device": "gpu"}, r"device='gpu' cannot be used"),
        ({"dtype": "float32"}, r"dtype='float32'; it must be a floating dtype"),
        ({"dtype": torch.int64}, r"must be a floating dtype"),
        ({"groups": [0] * 3}, r"groups names 3 samples"),
    ],
)
def test_options(model, options, match):
    layers = options.pop("layers", ("input", "1"))
    fails(match, model, None, layers, **options)


def test_error_inside_the_model_restores_it(model):
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model.add_module("3", Breaks())
    model.train()
    with pytest.raises(InteractGraphError, match=r"fails on batch 0.*RuntimeError: broken"):
        run(model, [X], ["input", "3"])
    assert model.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_data_that_is_fine(model):
    """What users have lying around."""
    reference = run(model, [X]).weights("input", "1")
    for data in (
        X,
        [X[:5], X[5:]],
        [(X, torch.zeros(8))],
        [[X, "label"]],
        [{"input": X}],
        DataLoader(TensorDataset(X), batch_size=3),
        [X, X[:0]],
    ):
        torch.testing.assert_close(run(model, data).weights("input", "1"), reference)
    own = run(model, [{"anything": [X]}], forward=lambda m, batch: m(batch["anything"][0]))
    torch.testing.assert_close(own.weights("input", "1"), reference)


def test_forward_in_inference_mode():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    forward = torch.inference_mode()(lambda model, batch: model(batch))
    with pytest.raises(InteractGraphError, match=r"runs under torch\.inference_mode"):
        itg.interaction_graph(model, torch.randn(5, 3), ["0", "1"], forward=forward, progress=False)
