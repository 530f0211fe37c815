"""Sparse autoencoders of several layers, trained together."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.features import Dictionary, SparseAutoencoder
from interactgraph.features.autoencoder_training import Training
from interactgraph.features.local_segment import LocalSegment
from interactgraph.fitting.autoencoder_fit import _is_local, _Joint
from interactgraph.layers import Layers
from interactgraph.model import Runner, check_data, prepared, resolve_sites

OPTIONS = SparseAutoencoder(n_dictionary=12, k=3, n_rows=600, batch_size=20)
NAMES = ["first", "second"]
PAIR = ("first", "second")


class Mixing(nn.Module):
    """Positions are mixed between the layers, as by attention."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 6)

    def between(self, h):
        h = torch.tanh(h)
        return self.second(h + h.softmax(1).flip(1) * h.cumsum(1))

    def forward(self, x, mask=None):
        return torch.tanh(self.between(self.first(x)))


class Apart(Mixing):
    """Positions are not mixed."""

    def between(self, h):
        return self.second(torch.tanh(h) + h**2)


def by_autograd(trainings, f, x, mask):
    """The penalty of all active features: a Jacobian and sums over it, differentiable."""
    (of_x, of_y), y = (trainings[layer] for layer in NAMES), f(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: f(v).sum(0), x)  # [t, e, b, s, d]

    def codes(training, values):
        p = (values * training.scale - training.bias) @ training.encoder.mT + training.encoder_bias
        kept = torch.zeros_like(p).scatter(-1, p.topk(training.options.k).indices, 1.0)
        return (p.relu() * kept).detach() * mask[..., None]

    z, active = codes(of_x, x), codes(of_y, y) > 0
    length = of_y.encoder.norm(dim=1, keepdim=True)
    encoder = of_y.encoder / length * length.detach() * of_y.scale
    moved = torch.einsum("tebsd,bsj,jd->tebj", jacobian, z, of_x.decoder / of_x.scale)
    effects = torch.einsum("ie,tebj->btij", encoder, moved).abs()
    return (effects * active[..., None]).sum() / mask.sum()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [Mixing, Apart])
def test_drawn_connections_are_those_of_all_features(kind, masked):
    """Their value and their gradients in decoder and encoder, in the mean over many draws."""
    torch.manual_seed(0)
    model, x = kind(), torch.randn(8, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).repeat(4, 1) if masked else torch.ones(8, 3)
    runner = Runner.on(model, None, None, None)
    with prepared(runner.model):
        layers = Layers.look(
            runner, check_data([(x, mask)]), resolve_sites(model, NAMES), [PAIR],
            dict.fromkeys(NAMES, OPTIONS), position_mask=lambda batch: batch[1].bool(),
        )  # fmt: skip
        joint = _Joint(layers, 600, 0.1, 4000)
        (batch,) = joint.layers.segments_of([PAIR], "")
        joint._local = {PAIR: _is_local(batch[PAIR])}
        assert joint._local[PAIR] == (kind is Apart)
        found = joint._connections(batch)[1][PAIR]
    parameters = joint.trainings["first"].decoder, joint.trainings["second"].encoder
    wanted = by_autograd(joint.trainings, model.between, model.first(x).detach(), mask)
    assert float(found) == pytest.approx(float(wanted), rel=0.02)
    gradients = [torch.autograd.grad(size, parameters) for size in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.05


def test_fewer_connections_for_hardly_less_reconstruction():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = itg.zoo.sparse_features(6000, 24, generator=generator, probability=0.15)
    model = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 16))
    options = SparseAutoencoder(
        n_dictionary=48, k=4, n_rows=100_000, batch_size=128, learning_rate=5e-3
    )
    edges, missed, last = {}, {}, {}
    for penalty in (0.0, 0.1):
        fit = itg.fit_sparse_autoencoders(
            model, x.split(250), ["0", "2"], autoencoder=options, penalty=penalty, progress=False
        )
        graph = itg.interaction_graph(
            model, x[:1000], ["0", "2"], features=fit.maps, strengths="mean_abs", progress=False
        )
        values = graph.weights("0", "2")[:-1, :-1].flatten().sort(descending=True).values
        edges[penalty] = int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1
        missed[penalty] = sum(graph.features[layer].unexplained for layer in ("0", "2"))
        last[penalty] = fit.connections["0", "2"][-1]
    assert edges[0.1] < 0.7 * edges[0.0]
    assert missed[0.1] < missed[0.0] + 0.05
    assert last[0.1] < 0.85 < last[0.0]


def test_what_comes_back_and_what_a_seed_decides():
    torch.manual_seed(0)
    model, data = Mixing(), torch.randn(60, 3, 4).split(20)
    one, same, other = (
        itg.fit_sparse_autoencoders(
            model, data, NAMES, autoencoder=replace(OPTIONS, seed=seed), progress=False
        )
        for seed in (0, 0, 1)
    )
    for layer, found in one.maps.items():
        assert isinstance(found, Dictionary)
        assert torch.equal(found.encoder, same.maps[layer].encoder)
        assert not torch.equal(found.encoder, other.maps[layer].encoder)
        torch.testing.assert_close(found.decoder.norm(dim=0), torch.ones(12))
        assert 0 < found.unexplained < 1
    # 600 rows, in batches of 6, 6, 6 and 2 samples of three positions
    assert len(one.connections[PAIR]) == 40
    graph = itg.interaction_graph(model, data, NAMES, features=one.maps, progress=False)
    assert graph.weights(*PAIR).shape == (13, 13)  # and the errors


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(monkeypatch):
    """Saves after every step, and runs a fit that is stopped after so many of them."""
    monkeypatch.setattr("interactgraph.features.sparse_autoencoder._SAVED", 0.0)

    def run(after, fit):
        update, steps = Training.update, []

        def stopping(self, *arguments):
            steps.append(1)
            if len(steps) > after:
                raise Stopped
            update(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "update", stopping)
            with pytest.raises(Stopped):
                fit()

    return run


@pytest.mark.parametrize("after", [3, 40, 90])
def test_stopped_and_gone_on_with(after, stopped, monkeypatch, tmp_path):
    """In the first layer's own training, in the second's, and while they are trained together."""
    torch.manual_seed(0)
    model, data = Mixing(), torch.randn(60, 3, 4).split(20)
    whole = itg.fit_sparse_autoencoders(model, data, NAMES, autoencoder=OPTIONS, progress=False)
    saved = replace(OPTIONS, checkpoint=str(tmp_path))

    def fit():
        return itg.fit_sparse_autoencoders(model, data, NAMES, autoencoder=saved, progress=False)

    stopped(after, fit)
    update, steps = Training.update, []

    def counting(self, *arguments):
        steps.append(1)
        update(self, *arguments)

    monkeypatch.setattr(Training, "update", counting)
    again = fit()
    assert len(steps) <= 140 - after + 2  # 30 and 30 alone, 2 * 40 together
    for layer, found in whole.maps.items():
        assert torch.equal(found.encoder, again.maps[layer].encoder)
        assert torch.equal(found.learning_curve, again.maps[layer].learning_curve)
    assert again.connections == whole.connections
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_a_checkpoint_of_another_training_is_refused(stopped, tmp_path):
    torch.manual_seed(0)
    model, data = Mixing(), torch.randn(60, 3, 4).split(20)
    saved = replace(OPTIONS, checkpoint=str(tmp_path))
    stopped(5, lambda: itg.fit_features(model, data, {"first": saved}, progress=False))
    with pytest.raises(itg.InteractGraphError, match="its k is 3, now it is 2"):
        itg.fit_features(model, data, {"first": replace(saved, k=2)}, progress=False)
    with pytest.raises(itg.InteractGraphError, match="its first rows is"):
        itg.fit_features(model, [2 * x for x in data], {"first": saved}, progress=False)


def test_a_resumed_training_notices_other_batches(stopped, tmp_path):
    """Those after the first samples, which it looks at: the joint training reads them again."""
    torch.manual_seed(0)
    model, data = Mixing(), torch.randn(60, 3, 4).split(20)
    saved = replace(OPTIONS, checkpoint=str(tmp_path))
    options = {"autoencoder": saved, "progress": False}
    stopped(90, lambda: itg.fit_sparse_autoencoders(model, data, NAMES, **options))
    others = [data[0], 2 * data[1], data[2]]
    with pytest.raises(itg.DataError, match="add up to"):
        itg.fit_sparse_autoencoders(model, others, NAMES, **options)


def test_a_batch_of_one_row_does_not_spoil_the_training():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6)), torch.randn(61, 4)
    options = replace(OPTIONS, n_rows=6000)
    missed = []
    for data in ([x[:60]], [x[:60], x[60:]]):
        fit = itg.fit_sparse_autoencoders(
            model, data, ["0", "2"], autoencoder=options, penalty=1.0, progress=False
        )
        missed.append(sum(found.unexplained for found in fit.maps.values()))
        assert all(float(found.learning_curve[:, 1].max()) < 3 for found in fit.maps.values())
    assert missed[1] < 1.2 * missed[0]


@pytest.mark.parametrize("between", [lambda h: h.cumsum(1), lambda h: h + h[:, :1]])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_positions_that_mix_are_seen(between, n):
    segment = LocalSegment(between, torch.randn(4, n, 5), 5, n)
    assert not _is_local(segment)
    apart = LocalSegment(torch.tanh, torch.randn(4, n, 5), 5, n)
    assert _is_local(apart) == (n > 1)


def test_batches_without_a_position_that_counts():
    """Are left out; where there are no others, that is said."""
    torch.manual_seed(0)
    x, all_of_it, none = torch.randn(20, 3, 4), torch.ones(20, 3), torch.zeros(20, 3)
    options = {"autoencoder": OPTIONS, "progress": False}
    options["position_mask"] = lambda batch: batch[1].bool()
    fit = itg.fit_sparse_autoencoders(Mixing(), [(x, all_of_it), (x, none)], NAMES, **options)
    assert all(bool(found.encoder.isfinite().all()) for found in fit.maps.values())
    with pytest.raises(itg.InteractGraphError, match="no activation of layer 'first'"):
        itg.fit_sparse_autoencoders(Mixing(), [(x, none)], NAMES, **options)


def test_a_layer_that_does_not_vary():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.raises(itg.InteractGraphError, match="layer '0' do not vary"):
        itg.fit_features(model, [torch.randn(50, 4)], {"0": replace(OPTIONS, k=2)}, progress=False)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": ["first"]}, "two layers"),
        ({"penalty": -1.0}, "penalty=-1"),
        ({"n_draws": 0}, "n_draws"),
        ({"n_rows": 0}, "n_rows"),
        ({"layers": "first"}, "a list of two layers"),
        ({"autoencoder": itg.features.PCA()}, "give a SparseAutoencoder"),
    ],
)
def test_bad_options(options, match):
    arguments = {"layers": NAMES, **options}
    with pytest.raises(itg.InteractGraphError, match=match):
        itg.fit_sparse_autoencoders(Mixing(), [torch.randn(9, 3, 4)], **arguments, progress=False)
