"""Every note that a graph can carry, and what provokes it."""

import signal
import warnings
from unittest import mock

import networks
import pytest
import torch
from captum.attr import FeatureAblation
from communities.planted_graphs import of_sentences, sampled
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphWarning, notes
from interactgraph.attribution.methods import nodes_in_time
from interactgraph.features import PCA, Dictionary

PROVOKED = {}  # name of the note -> (what makes such a graph, words of the note)


def provokes(name, words):
    def register(function):
        PROVOKED[name] = (function, words)
        return function

    return register


def run(model, data, layers, **options):
    return itg.interaction_graph(model, data, layers, progress=False, **options)


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))


def normalised(function=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), function or nn.Tanh(), nn.Linear(6, 3)
    )  # fmt: skip


def x(n=12):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class Padded(nn.Module):
    """Tokens by number; a padded one changes nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.last = nn.Embedding(9, 5), nn.Linear(5, 4)

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None):
        return self.last(self.tokens(input_ids).tanh())


def padded(**more):
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    return [{"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": mask, **more}]


@provokes("guessed_axis", "was taken for features, which nothing in the model confirms")
def guessed_axis():
    own = Lambda(lambda x: torch.tanh(x) @ torch.ones(8, 3))
    return run(own, [torch.randn(4, 2, 8)], ["input", "output"])


@provokes("features_leave_out", "its features leave out")
def features_leave_out():
    return run(perceptron(), [x()], ["1", "2"], features={"1": PCA(rank=1)})


@provokes("wrong_hook", "of the variance unexplained, with 6 of 6 features active on average")
def wrong_hook():
    far = Dictionary(torch.eye(6), torch.eye(6), encoder_bias=torch.full((6,), 100.0))
    return run(perceptron(), [x()], ["1", "2"], features={"1": far})


@provokes("baseline_outside", "lies outside the values in the data; baseline='mean' lies inside")
def baseline_outside():
    return run(perceptron(), [x() + 50], ["input", "0"])


@provokes("time_first", "module 'attention' has batch_first=False")
def time_first():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.down(self.up(self.attention(x, x, x)[0]).relu())

    return run(TimeFirst(), [torch.randn(5, 3, 4)], ["up", "down"])


@provokes("attention_mask_used", "where the batches' attention_mask is 0 are left out")
def attention_mask_used():
    return run(Padded(), padded(), ["tokens", "last"])


@provokes("attention_mask_ignored", "attention_mask of the batches is not used")
def attention_mask_ignored():
    return run(Padded(), padded(decoder_input_ids=torch.ones(2, 3).long()), ["tokens", "last"])


@provokes("names_left_over", "groups names 14 samples and the data has 12")
def names_left_over():
    return run(perceptron(), [x()], ["input", "0"], groups=[0, 1] * 7)


@provokes("drivers_of_drawn", "their shares count these alone")
def drivers_of_drawn():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return run(model, [torch.randn(4, 5, 4)], ["0", "2"], positions=2)


@provokes("never_drawn", "source features were never drawn, which make")
def never_drawn():
    model = nn.Sequential(nn.Linear(40, 6), nn.GELU(), nn.Linear(6, 3))
    return run(model, [torch.randn(5, 40)], ["input", "2"], sources=1, engine="forward")


@provokes("error_above_target", "above target_error=0.0001")
def error_above_target():
    return run(perceptron(), [x()], ["input", "2"], target_error=1e-4)


@provokes("ended_early", "the rest was not read")
def ended_early():
    data = torch.cat([x()] * 200).split(100)
    return run(perceptron(), data, ["input", "2"], target_error=0.5)


@provokes("ended_by_time", "time_budget=0.001 s ended the run after")
def ended_by_time():
    data = [torch.randn(6, 4) for _ in range(4)]
    return run(normalised(), data, ["0", "3"], time_budget=1e-3, engine="forward")


@provokes("interrupted", "the run was interrupted after 12 samples")
def interrupted():
    def data():
        yield x()
        signal.raise_signal(signal.SIGINT)
        yield x()

    class Twice:
        def __iter__(self):
            return data()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(perceptron(), Twice(), ["input", "2"])
    finally:
        signal.signal(signal.SIGINT, before)


@provokes("fallback", "where the planned closed form fails")
def fallback():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 3)

        def forward(self, x, kind):
            y = self.linear(x)
            return y.tanh() if kind.tolist()[0] else y.sin()  # read unseen

    data = [{"x": x(), "kind": torch.ones(12)}, {"x": -x(), "kind": torch.zeros(12)}]
    return run(Moody(), data, ["input", "output"])


@provokes("path_off", "the path integral is off by")
def path_off():
    return run(normalised(), [x()], ["0", "3"], n_steps=4, tolerance=1e-9)


@provokes("jumps", "operations that may jump (hardshrink), which no derivative sees")
def jumps():
    return run(normalised(nn.Hardshrink()), [x()], ["0", "3"])


@provokes("held_fixed", "the segment holds values fixed (detach or no_grad)")
def held_fixed():
    torch.manual_seed(0)
    model = Lambda(lambda x: x.tanh() * x.square().sum(-1, keepdim=True).detach())
    return run(model, [x()], ["input", "output"])


@provokes("large_residual", "the completeness residual is")
def large_residual():
    return run(normalised(), [x()], ["0", "3"], n_steps=1, tolerance=None)


@provokes("no_residual", "the target is not finite at the baseline")
def no_residual():
    return run(Lambda(torch.log), [x().abs() + 1], ["input", "output"], method="gradient")


@provokes("does_not_add_up", "does not add up to the change of the target")
def does_not_add_up():
    model = Lambda(lambda x: x[:, :2] * x[:, 2:])
    return run(model, [x()], ["input", "output"], method=FeatureAblation)


@provokes("all_zero", "every interaction is zero")
def all_zero():
    return run(networks.Branches(), [x()], ["a", "b"])


@provokes("no_time", "time_budget leaves no time for more")
def no_time():
    with mock.patch.object(nodes_in_time, "_PLACING_FIRST", 0.0):
        model, options = normalised(), {"time_budget": 5.0, "engine": "forward"}
        return run(model, [x()], ["0", "3"], **options)


@provokes("edges_dropped", "the smallest sums were dropped on the way; edges with rms above")
def edges_dropped():
    return run(perceptron(), [x()], ["input", "2"], max_edges=1, engine="forward")


@provokes("passes_through", "most features have themselves as their strongest target")
def passes_through():
    class Residual(nn.Module):
        def forward(self, x):
            return x + x.roll(1, -1).tanh() / 4

    model = nn.Sequential(nn.Linear(4, 9), Residual())
    return run(model, [x()], ["0", "1"])


@provokes("underflow", "their squares, or the change of the target, vanish in torch.float32")
def underflow():
    return run(Lambda(lambda x: (x * 1e-25).tanh()), [x()], ["input", "output"], engine="forward")


@provokes("handful_of_samples", "most of their features owe their strength to a handful")
def handful_of_samples():
    return found(sampled(*of_sentences()))


@provokes("not_on_other_samples", "modules found on some of the samples do not hold on the others")
def not_on_other_samples():
    return found(sampled(*of_sentences(), n_folds=3))


@provokes("of_one_group", "to a single group of samples (")
def of_one_group():
    (squares, _) = of_sentences(n_sentences=2, own=12)
    several = squares.repeat(8, 0) * (1 + 0.1 * torch.rand(16, 24, 24).numpy())
    return found(sampled(several, groups=["x"] * 8 + ["y"] * 8))


def found(graph):
    return itg.find_modules(graph, n_runs=2, resolution=1.0)


def test_there_is_no_other_note():
    assert set(PROVOKED) == set(notes.__all__)


@pytest.mark.parametrize("name", PROVOKED)
def test_provoked(name):
    """Each is in the graph, or the partition, and issued once, as a warning."""
    make, words = PROVOKED[name]
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        graph = make()
    assert any(words in note for note in graph.notes), graph.notes
    ours = [str(w.message) for w in issued if issubclass(w.category, InteractGraphWarning)]
    assert ours == list(graph.notes)
    assert len(set(ours)) == len(ours)


def test_a_clean_run_says_nothing(tmp_path):
    graph = run(perceptron(), [x()], ["input", "0", "2"])
    assert graph.notes == ()


def test_notes_are_saved(tmp_path):
    graph = features_leave_out()
    graph.save(tmp_path / "g.safetensors")
    assert itg.load(tmp_path / "g.safetensors").notes == graph.notes != ()


def test_advice_fits_the_run():
    off = run(normalised(), [x()], ["0", "3"], n_steps=4, tolerance=1e-9, baseline="mean")
    assert "baseline='mean'" not in off.notes[0]
    fixed = run(normalised(), [x()], ["0", "3"], n_steps=1, tolerance=None)
    assert "set tolerance" in fixed.notes[0]
    assert "(baseline='mean')" in fixed.notes[0]
