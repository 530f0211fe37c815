"""Sparse autoencoders that are trained on a layer."""

import copy

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.features import Dictionary, SparseAutoencoder, mean_max_cosine
from interactgraph.features.autoencoder_training import Training, batches
from interactgraph.zoo import sparse_features


def planted(n=4000, size=16, n_features=24, probability=0.06, seed=0):
    """Activations that are sums of few of some unit vectors, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_features, size, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    codes = sparse_features(n, n_features, generator=generator, probability=probability)
    return 3 * codes @ directions + 5, directions


def trained(x, **options):
    model = nn.Sequential(nn.Identity(), nn.Linear(x.shape[1], 3))
    options = {"n_rows": 150_000, "batch_size": 256, "learning_rate": 0.01, **options}
    graph = itg.interaction_graph(
        model, x[:600].split(200), ["0", "1"], baseline="mean",
        features={"0": itg.fit_features(model, [x], {"0": SparseAutoencoder(**options)},
                                        progress=False)["0"]},
        progress=False,
    )  # fmt: skip
    return graph.features["0"], graph


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_planted_directions_are_found(activation):
    x, directions = planted()
    k = 3 if activation == "topk" else 2
    found, graph = trained(x, n_dictionary=48, k=k, activation=activation)
    assert isinstance(found, Dictionary)
    truth = Dictionary(encoder=directions, decoder=directions.mT)
    there, _ = mean_max_cosine(truth, found)
    assert there > 0.95
    control, _ = mean_max_cosine(truth, Dictionary.random(16, 48))
    assert control < 0.75
    assert found.unexplained < 0.1
    assert found.active == pytest.approx(k, abs=1.6)
    torch.testing.assert_close(found.decoder.norm(dim=0), torch.ones(48))
    assert graph.completeness["0", "1"] < 1e-4
    curve = found.learning_curve
    assert 90 <= len(curve) <= 110
    assert float(curve[0, 1]) > 3 * float(curve[-1, 1])
    assert float(curve[-1, 0]) == pytest.approx(150_000, rel=0.05)


def test_less_is_unexplained_than_by_as_many_principal_components():
    x, _ = planted()
    found, _ = trained(x, n_dictionary=48, k=3)
    rows = x[:1000]
    left = rows - rows.mean(0)
    _, _, v = torch.linalg.svd(left, full_matrices=False)
    rest = left - left @ v[:3].mT @ v[:3]
    assert found.unexplained < 0.5 * float(rest.square().sum() / left.square().sum())


def test_dead_features_are_revived(monkeypatch):
    """Half of the features begin where no data are; without new directions they stay dead."""
    x, _ = planted()
    begin, revive = Training.__init__, Training._revive

    def half_dead(self, *arguments):
        begin(self, *arguments)
        with torch.no_grad():
            self.encoder_bias[:24] = -100

    monkeypatch.setattr(Training, "__init__", half_dead)
    options = {"n_dictionary": 48, "k": 3, "n_rows": 100_000}
    with_it, _ = trained(x, **options)
    monkeypatch.setattr(Training, "_revive", lambda *_: None)
    without, _ = trained(x, **options)
    monkeypatch.setattr(Training, "_revive", revive)
    assert float(without.learning_curve[-1, 3]) >= 0.5
    assert float(with_it.learning_curve[-1, 3]) < 0.25


def test_by_name_and_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.randn(300, 4).split(100)
    asked = SparseAutoencoder(n_dictionary=16, k=4, n_rows=3000, batch_size=100)
    graph = itg.interaction_graph(model, data, ["1", "2"], features={"1": asked}, progress=False)
    again = itg.interaction_graph(model, data, ["1", "2"], features={"1": asked}, progress=False)
    assert torch.equal(graph.weights("1", "2"), again.weights("1", "2"))
    other = SparseAutoencoder(n_dictionary=16, k=4, n_rows=3000, batch_size=100, seed=1)
    third = itg.interaction_graph(model, data, ["1", "2"], features={"1": other}, progress=False)
    assert not torch.equal(graph.weights("1", "2"), third.weights("1", "2"))
    assert graph.weights("1", "2").shape == (3, 17)  # the error, too
    graph.save(tmp_path / "g.safetensors")
    loaded = itg.load(tmp_path / "g.safetensors").features["1"]
    assert torch.equal(loaded.learning_curve, graph.features["1"].learning_curve)
    assert isinstance(itg.features.named_map("sparse_autoencoder", "1"), SparseAutoencoder)
    assert "unexplained" in graph.metadata["feature_maps"]["1"]["remark"]


def test_positions_and_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    asked = SparseAutoencoder(n_dictionary=12, k=2, n_rows=2000, batch_size=100)
    graph = itg.interaction_graph(
        model, torch.randn(10, 1, 8, 8), ["1", "2"], features={"1": asked}, progress=False
    )
    assert graph.weights("1", "2").shape == (2, 13)
    assert graph.completeness["1", "2"] < 0.02


def test_a_rest_of_one_row_does_not_spoil_the_training():
    x, _ = planted(4097)
    found, _ = trained(x, n_dictionary=48, k=3, batch_size=64, n_rows=60_000)
    even, _ = trained(x[:4096], n_dictionary=48, k=3, batch_size=64, n_rows=60_000)
    assert found.unexplained < 1.5 * even.unexplained


def test_thresholds_follow_in_few_steps():
    x, _ = planted()
    found, _ = trained(x, n_dictionary=48, k=2, activation="jumprelu", n_rows=25_600)
    assert found.active == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_the_dictionary_is_what_was_trained(activation):
    """Codes and reconstruction of activations in their own units are those of the training."""
    x, _ = planted(300)
    options = SparseAutoencoder(n_dictionary=12, k=2, activation=activation, error=False)
    training = Training(options.bind("0", x.shape, -1), x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        training.encoder_bias.normal_(generator=torch.Generator().manual_seed(1))
        scaled = x * training.scale - training.bias
        p = scaled @ training.encoder.mT + training.encoder_bias
        if activation == "topk":
            values, places = p.topk(2, dim=1)
            codes = torch.zeros_like(p).scatter(1, places, values.relu())
        else:
            training.threshold = 0.4
            codes = torch.where(p > 0.4, p, 0.0)
        found = training.dictionary()
        torch.testing.assert_close(found.encode(x) * training.scale, codes, rtol=1e-4, atol=1e-4)
        wanted = (codes @ training.decoder + training.bias) / training.scale
        torch.testing.assert_close(found.decode(found.encode(x)), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_a_training_goes_on_from_its_state(activation):
    """Features that are about to be given up included, and the directions they get then."""
    x, _ = planted(300)
    options = SparseAutoencoder(n_dictionary=12, k=2, activation=activation, n_rows=9000)
    bound = options.bind("0", x.shape, -1)
    one = Training(bound, x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        one.encoder_bias[:4] = -100  # dead from the start
    one.step(x)
    other = Training(bound, 2 * x[:50] + 1, torch.Generator().manual_seed(7))
    other.restore(copy.deepcopy(one.state()))
    for training in (one, other):
        for _ in range(6):
            training.step(x)
    assert int(one.quiet.max()) < 6 * 300  # they were given new directions
    assert torch.equal(one.quiet, other.quiet)
    assert torch.equal(one.encoder, other.encoder)
    assert torch.equal(one.decoder, other.decoder)
    assert (one.threshold, one.curve, one.n_rows) == (other.threshold, other.curve, other.n_rows)


@pytest.mark.parametrize("n", [50, 1000])
def test_batches_hold_every_row_as_often(n, monkeypatch):
    """Few data are read once and mixed; many are read again, and none is lost on the way."""
    monkeypatch.setattr("interactgraph.features.autoencoder_training._BUFFER", 200)
    passes = []

    def rows():
        passes.append(1)
        yield from torch.arange(n, dtype=torch.float32)[:, None].split(30)

    seen = torch.zeros(n)
    stream = batches(rows, 16, torch.Generator().manual_seed(0))
    total = 0
    while total < 20 * n:
        batch = next(stream)
        seen[batch[:, 0].long()] += 1
        total += len(batch)
    assert (len(passes) == 1) == (n == 50)
    assert float(seen.min()) >= 12
    assert float(seen.max()) <= 28


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 9, "n_dictionary": 8}, "k=9 of n_dictionary=8"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
        ({"n_rows": 0}, "n_rows=0"),
        ({"batch_size": 1}, "batch_size=1"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(itg.InteractGraphError, match=match):
        SparseAutoencoder(**options)


def test_more_active_features_than_there_are():
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2))
    with pytest.raises(itg.InteractGraphError, match="k=32 of 16 features"):
        itg.interaction_graph(
            model, torch.randn(5, 2), ["1", "2"], features={"1": "sparse_autoencoder"},
            progress=False,
        )  # fmt: skip
