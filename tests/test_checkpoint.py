"""Interrupted at any moment, a run goes on to bit-identical numbers."""

import networks
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.attribution.loop import BatchLoop

ALL = ("rms", "mean_abs", "mean", "max")


class Interrupted:
    """Data whose n-th batch is never reached."""

    def __init__(self, batches, stop):
        self.batches, self.stop, self.passes = batches, stop, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            # The first look and the means are over before the run begins.
            if number == self.stop:
                raise KeyboardInterrupt
            yield batch


def nets():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    two = nn.Sequential(nn.Linear(4, 6), networks.Block(6))
    return {
        "one map": (one, torch.randn(70, 6).split(9), ["input", "1", "3"], {}),
        "two maps": (one, torch.randn(70, 6).split(9), ["input", "2"], {}),
        "columns": (two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "forward"}),
        "rows": (two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "reverse"}),
        "drawn": (
            two, torch.randn(30, 5, 4).split(4), ["0", "1"], {"engine": "forward", "sources": 2}
        ),
        "lengths": (
            two, [torch.randn(4, n, 4) for n in (5, 5, 3, 2, 5, 5, 5, 5)], ["0", "1.up"], {}
        ),
    }  # fmt: skip


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize("name", list(nets()))
def test_resumed_run_is_bit_identical(name, stop, tmp_path):
    model, batches, layers, options = nets()[name]
    options = {"strengths": ALL, "n_steps": 2, "tolerance": None, "progress": False, **options}
    whole = itg.interaction_graph(model, list(batches), layers, **options)
    saves = {"checkpoint": tmp_path / "state", "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches, stop), layers, **options, **saves)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["interactions.checkpoint"]
    again = itg.interaction_graph(model, list(batches), layers, **options, **saves)
    assert list((tmp_path / "state").iterdir()) == []
    for pair in whole.pairs:
        for strength in ALL:
            assert torch.equal(again.weights(*pair, strength), whole.weights(*pair, strength))
            if strength != "max":
                assert torch.equal(
                    again.standard_error(*pair, strength), whole.standard_error(*pair, strength)
                )
        assert again.completeness[pair] == whole.completeness[pair]
    for key in ("n_samples", "n_batches", "baseline_outside_range", "plans"):
        assert again.metadata[key] == whole.metadata[key]


def test_resumes_after_the_mean_was_found(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    options = {"baseline": "mean", "progress": False}
    whole = itg.interaction_graph(model, list(batches), layers, **options)
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0}

    class Once(Interrupted):
        def __iter__(self):
            self.passes += 1
            # First look and means are one pass; the run itself is interrupted.
            source = self.batches if self.passes < 2 else super().__iter__()
            yield from source

    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Once(batches, 3), layers, **options, **saves)
    again = itg.interaction_graph(model, list(batches), layers, **options, **saves)
    for pair in whole.pairs:
        assert torch.equal(again.weights(*pair), whole.weights(*pair))


@pytest.fixture
def interrupted(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches, 3), layers, **saves)
    return model, list(batches), layers, saves


def test_checkpoint_of_another_recipe_is_refused(interrupted):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match=r"another run: its method is 'integrated_grad"):
        itg.interaction_graph(model, batches, layers, method="gradient", **saves)
    model[0].weight.data += 1
    with pytest.raises(InteractGraphError, match=r"another run: its weights"):
        itg.interaction_graph(model, batches, layers, **saves)


@pytest.mark.parametrize(
    "changed",
    [
        {"baseline": torch.ones(6)},
        {"groups": [0, 1] * 100},
        {"dtype": torch.float32},
        {"forward": lambda model, batch: model(batch)},
        {"features": {"input": itg.features.Linear(torch.eye(6))}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_checkpoint_of_another_call_is_refused(interrupted, changed):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match="another run: "):
        itg.interaction_graph(model, batches, layers, **saves, **changed)


class Scaled(nn.Module):
    """Multiplies by a plain attribute, which is in no state_dict."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def scaled(factor):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), Scaled(factor), nn.GELU(), nn.Linear(7, 5))


def other_activation(model, batches):
    model[1] = nn.SiLU()
    return model, batches


def other_batch(model, batches):
    batches[1] = batches[1] + 1
    return model, batches


def other_first_batch(model, batches):
    return model, [batch + 1 for batch in batches]


def other_order(model, batches):
    return model, [batches[0], batches[2], batches[1], *batches[3:]]


def other_cut(model, batches):
    rest = torch.cat(batches[1:])
    return model, [batches[0], *rest.split(7)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (other_activation, "layer '1' has other activations"),
        (other_first_batch, "layer 'input' has other activations"),
        (other_batch, "batch 1, which it has added"),
        (other_order, "batch 1, which it has added"),
        (other_cut, "batch 1, which it has added"),
    ],
)
def test_what_changed_since_is_refused(interrupted, change, match):
    model, batches, layers, saves = interrupted
    model, batches = change(model, batches)
    with pytest.raises(InteractGraphError, match=match):
        itg.interaction_graph(model, batches, layers, **saves)


def test_attribute_of_a_module_that_changed_is_refused(tmp_path):
    batches, layers = list(torch.randn(40, 6).split(9)), ["0", "2"]
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(scaled(2.0), Interrupted(batches, 3), layers, **saves)
    with pytest.raises(InteractGraphError, match="layer '2' has other activations"):
        itg.interaction_graph(scaled(2.5), batches, layers, **saves)
    again = itg.interaction_graph(scaled(2.0), batches, layers, **saves)
    whole = itg.interaction_graph(scaled(2.0), batches, layers, progress=False)
    assert torch.equal(again.weights("0", "2"), whole.weights("0", "2"))


@pytest.mark.parametrize("option", ["groups", "position_mask"])
def test_functions_that_give_something_else_are_refused(tmp_path, option):
    """By what they made of the batches that were added, whatever their code."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(4, 6), nn.GELU()), list(torch.randn(30, 5, 4).split(6))
    functions = {
        "groups": lambda limit: lambda batch: (batch[:, 0, 0] > limit).tolist(),
        "position_mask": lambda limit: lambda batch: batch[..., 0] > limit,
    }[option]
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(
            model, Interrupted(data, 3), ["0", "1"], **saves, **{option: functions(0.0)}
        )
    with pytest.raises(InteractGraphError, match="batch 0, which it has added"):
        itg.interaction_graph(model, data, ["0", "1"], **saves, **{option: functions(0.5)})
    itg.interaction_graph(model, data, ["0", "1"], **saves, **{option: functions(0.0)})


def test_leftovers_of_a_killed_save_are_removed(interrupted, tmp_path):
    model, batches, layers, saves = interrupted
    (tmp_path / ".interactions.checkpoint.abc.part").write_bytes(b"half")
    itg.interaction_graph(model, batches, layers, **saves)
    assert not list(tmp_path.iterdir())


def test_damaged_checkpoint(interrupted, tmp_path):
    model, batches, layers, saves = interrupted
    path = tmp_path / "interactions.checkpoint"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InteractGraphError, match=r"no complete checkpoint"):
        itg.interaction_graph(model, batches, layers, **saves)


def test_shuffled_data_is_refused(tmp_path):
    model, batches, layers, _ = nets()["one map"]
    loader = DataLoader(TensorDataset(torch.cat(batches)), batch_size=9, shuffle=True)
    with pytest.raises(InteractGraphError, match="same order"):
        itg.interaction_graph(model, loader, layers, checkpoint=tmp_path, progress=False)


def test_a_run_that_ended_early_ends_there_again(tmp_path, monkeypatch):
    """Killed after its last batch: what is resumed looks at the error before it reads on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    batches = torch.randn(640, 6).split(10)
    options = {"layers": ["0", "2"], "target_error": 0.1, "progress": False}
    whole = itg.interaction_graph(model, batches, **options)
    assert 2 < whole.metadata["n_batches"] < 64
    saves = {"checkpoint": tmp_path / "state", "checkpoint_seconds": 0}

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BatchLoop, "_gather", killed)
        with pytest.raises(KeyboardInterrupt):
            itg.interaction_graph(model, batches, **options, **saves)
    again = itg.interaction_graph(model, batches, **options, **saves)
    assert again.metadata["n_batches"] == whole.metadata["n_batches"]
    assert torch.equal(again.weights("0", "2"), whole.weights("0", "2"))


@pytest.mark.parametrize("option", ["groups", "position_mask"])
def test_functions_are_given_the_converted_batch(tmp_path, option):
    """Whatever is called on a batch sees the dtype of the run, with a checkpoint too."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(4, 6), nn.GELU()), list(torch.randn(30, 5, 4).split(6))
    ones = torch.ones(4, dtype=torch.float64)
    function = {
        "groups": lambda batch: (batch[:, 0] @ ones > 0).tolist(),
        "position_mask": lambda batch: batch @ ones > 0,
    }[option]
    options = {option: function, "dtype": torch.float64, "progress": False}
    whole = itg.interaction_graph(model, data, ["0", "1"], **options)
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(data, 3), ["0", "1"], **options, **saves)
    again = itg.interaction_graph(model, data, ["0", "1"], **options, **saves)
    assert torch.equal(again.weights("0", "1"), whole.weights("0", "1"))


def test_array_that_changed_is_refused(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU())
    data = [{"x": part.numpy()} for part in torch.randn(30, 4).split(6)]
    options = {
        "forward": lambda model, batch: model(torch.as_tensor(batch["x"])),
        "checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False,
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(data, 3), ["0", "1"], **options)
    data[1]["x"] = data[1]["x"] + 1
    with pytest.raises(InteractGraphError, match="batch 1, which it has added"):
        itg.interaction_graph(model, data, ["0", "1"], **options)


def test_forward_that_differs_on_later_batches_is_refused(tmp_path):
    """The last batch that was added is compared too, not only the first samples."""
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(4, 6), nn.GELU()), list(torch.rand(30, 4).split(6))
    batches[2] = -batches[2]
    saves = {"checkpoint": tmp_path, "checkpoint_seconds": 0, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Interrupted(batches, 3), ["0", "1"], **saves)
    model[0].register_forward_hook(
        lambda _, arguments, out: torch.where(arguments[0][:, :1] < 0, 2 * out, out)
    )
    with pytest.raises(InteractGraphError, match="other activations for batch 2"):
        itg.interaction_graph(model, batches, ["0", "1"], **saves)


def test_data_that_got_shorter_is_refused(interrupted):
    model, batches, layers, saves = interrupted
    with pytest.raises(InteractGraphError, match="has added 3 batches, and the data has 2 now"):
        itg.interaction_graph(model, batches[:2], layers, **saves)


def test_features_spelt_otherwise_are_the_same(interrupted):
    model, batches, layers, saves = interrupted
    whole = itg.interaction_graph(model, batches, layers, progress=False)
    again = itg.interaction_graph(model, batches, layers, features={"1": "neurons"}, **saves)
    for pair in whole.pairs:
        assert torch.equal(again.weights(*pair), whole.weights(*pair))


class Stopping:
    """Batches, interrupted in a pass (from 1) before a batch."""

    def __init__(self, batches, stop=None):
        self.batches, self.stop, self.n_passes = batches, stop, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.n_passes += 1
        for number, batch in enumerate(self.batches):
            if (self.n_passes, number) == self.stop:
                raise KeyboardInterrupt
            yield batch


def stopped(model, batches, stop, layers, tmp_path, **options):
    """Runs until interrupted; the options of the same call."""
    options = {"progress": False, "checkpoint": tmp_path, "checkpoint_seconds": 0, **options}
    with pytest.raises(KeyboardInterrupt):
        itg.interaction_graph(model, Stopping(batches, stop), layers, **options)
    return options


@pytest.mark.parametrize(
    ("options", "stop", "message"),
    [
        ({"features": "pca"}, (4, 5), "the features of layer '.*' are others now"),
        ({"baseline": "mean"}, (2, 5), "the mean activation of layer '.*' is another one now"),
    ],
)
def test_batches_not_added_yet_that_were_fitted_to(tmp_path, options, stop, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    x = list(torch.randn(160, 6).split(16))
    layers = ["input", "1", "3"]
    options = stopped(model, x, stop, layers, tmp_path, **options)
    other = [*x[:8], x[8] * torch.tensor([9.0, 1, 1, 1, 1, 0.1]), x[9]]
    with pytest.raises(InteractGraphError, match=message):
        itg.interaction_graph(model, other, layers, **options)


@pytest.mark.parametrize("change", ["another", "fewer"])
def test_batches_of_earlier_passes(tmp_path, change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x = list(torch.randn(160, 6).split(16))
    options = stopped(
        model, x, (3, 5), ["0", "3"], tmp_path, sources=1, target_error=0.001, engine="forward"
    )
    other = x[:8] if change == "fewer" else [*x[:8], x[8] + 1, x[9]]
    with pytest.raises(InteractGraphError, match=r"batch 8, which|has added 10 batches"):
        itg.interaction_graph(model, other, ["0", "3"], **options)


@pytest.mark.parametrize("gate", [torch.sigmoid, lambda h: torch.softmax(2 * h, -1)])
def test_a_change_that_only_derivatives_see(tmp_path, gate):
    class Gated(nn.Module):
        stop = False

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h * (gate(h).detach() if self.stop else gate(h)))

    torch.manual_seed(0)
    model, x = Gated(), list(torch.randn(160, 6).split(16))
    options = stopped(model, x, (1, 5), ["a", "b"], tmp_path)
    model.stop = True
    with pytest.raises(InteractGraphError, match="model has changed"):
        itg.interaction_graph(model, x, ["a", "b"], **options)
