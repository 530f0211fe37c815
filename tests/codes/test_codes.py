"""Codes: which observations, regions, clusters as groups, directions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.codes import load_groups, purity, save_groups
from interactgraph.communities import adjusted_rand_index

pytest.importorskip("sklearn")


def relu_network(seed=0, widths=(3, 10, 11, 2)):
    torch.manual_seed(seed)
    modules = []
    for n_in, n_out in pairwise(widths):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def two_regimes(n=60):
    """Inputs around two points, in random order, and the point of each."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 3, generator=generator) * 0.3 + torch.where(side == 1, 2.0, -2.0)[:, None]
    return x, side


def test_one_map_for_each_region():
    """Jacobians are equal where all bits are equal, and only there."""
    model = relu_network()
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    codes = itg.spline_codes(model, x.split(64), ["1", "3"], progress=False)
    regions = codes.regions()
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x).flatten(1)
    maps, found = np.unique(jacobians.detach().numpy().round(5), axis=0, return_inverse=True)
    assert 1 < len(maps) < 300
    assert len(maps) == regions.max() + 1
    assert adjusted_rand_index(regions, found.reshape(-1)) == 1
    assert codes.regions("1").max() < regions.max()
    assert codes.packed["3"].shape == (300, 2)
    assert codes.matrix().shape == (300, 21)
    assert torch.equal(codes.matrix("3"), codes.matrix()[:, 10:])


def test_smooth_gates_count_as_open_above_one_half():
    model = relu_network()
    smooth = nn.Sequential(model[0], nn.SiLU(), model[2])
    x = torch.randn(50, 3)
    hard = itg.spline_codes(model, x, "1", progress=False)
    soft = itg.spline_codes(smooth, x, "1", progress=False)
    assert np.array_equal(soft.regions(), hard.regions())


class PerPosition(nn.Module):
    """Sequences: the layers act at every position."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.act, self.out = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x, attention_mask=None):
        return self.out(self.act(self.fc(x)))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(130, [100, 106, 112, 117, 123, 129]), (106, list(range(100, 106))), (105, range(105))],
)
def test_positions_of_sequences(length, expected):
    model, x = PerPosition(), torch.randn(5, length, 4)
    codes = itg.spline_codes(model, x.split(3), "act", keep_activations=True, progress=False)
    expected = list(expected)
    assert codes.position.tolist() == expected * 5
    assert codes.sample.tolist() == [b for b in range(5) for _ in expected]
    values = model.fc(x)[codes.sample, codes.position]
    assert torch.equal(codes.matrix(), (values > 0).float())
    torch.testing.assert_close(codes.matrix(of="activations"), values.relu().detach())


def test_positions_that_count():
    model, x = PerPosition(), torch.randn(3, 12, 4)
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[1, 5:] = 0
    mask[2] = 0
    batch = {"x": x, "attention_mask": mask}
    codes = itg.spline_codes(
        model, [batch], "act", n_positions=3, skip_positions=4, progress=False
    )  # fmt: skip
    assert codes.sample.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert codes.position.tolist() == [4, 8, 11, 0, 1, 2, 3, 4]
    groups = codes.groups([1, 2, 2, 4, 4, 3, 3, 5])
    assert groups == ["2", "3", "none"]


def test_images_have_all_channels_at_the_middle():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU()
    )
    x = torch.randn(10, 1, 7, 7)
    codes = itg.spline_codes(model, x, ["1", "5"], progress=False)
    first = model[0](x)
    assert first.shape == (10, 4, 5, 5)
    assert torch.equal(codes.matrix("1"), (first[:, :, 2, 2] > 0).float())
    assert torch.equal(codes.matrix("5"), (model(x) > 0).float())


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative", "hdbscan"])
def test_clusters_are_groups_of_a_graph(algorithm):
    model, (x, side) = relu_network(), two_regimes()
    data = [(x[:20], side[:20]), (x[20:], side[20:])]
    codes = itg.spline_codes(
        model, data, ["1", "3"], labels=1, keep_activations=True, progress=False
    )  # fmt: skip
    assert codes.labels == [str(name) for name in side.tolist()]
    clusters = codes.clusters(2, algorithm=algorithm, seed=3)
    known = np.asarray(codes.labels)[clusters >= 0]
    assert purity(clusters[clusters >= 0], known) == 1
    if algorithm != "hdbscan":  # which finds more than two
        assert adjusted_rand_index(clusters, known) == 1
    groups = codes.groups(clusters)
    graph = itg.interaction_graph(model, data, ["input", "1"], groups=groups, progress=False)
    assert set(graph.groups) == set(groups)
    torch.testing.assert_close(
        graph.groups[groups[0]].weights("input", "1"),
        itg.interaction_graph(
            model, x[[name == groups[0] for name in groups]], ["input", "1"], progress=False
        ).weights("input", "1"),
    )
    other = codes.clusters(2, algorithm=algorithm, of="activations", layers="1")
    assert other.shape == clusters.shape


def test_codes_find_regimes_that_plain_activations_hide():
    """Gates without a bias do not depend on the size of a sample, by which activations differ."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (400,), generator=generator)
    rays = torch.randn(2, 12, generator=generator)
    x = rays[side] + 0.3 * torch.randn(400, 12, generator=generator)
    x = x * torch.randn(400, 1, generator=generator).exp()
    model = relu_network(widths=(12, 32, 32, 2))
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.bias)
    codes = itg.spline_codes(model, x, ["1", "3"], keep_activations=True, progress=False)
    scores = {
        of: adjusted_rand_index(codes.clusters(2, of=of), side.numpy())
        for of in ("codes", "activations")
    }
    assert scores["codes"] > 0.9
    assert scores["activations"] < 0.5


def test_purity():
    assert purity(["x", "x", "x", "y"], [0, 0, 1, 1]) == 0.75
    assert purity(range(4), [0, 0, 1, 1]) == 1
    with pytest.raises(InteractGraphError, match="one length"):
        purity([0, 1], [0])


def test_directions_cross_layers():
    """Two blocks of gates that open together, in both layers."""
    x, side = two_regimes()
    model = relu_network(1)
    codes = itg.spline_codes(model, x, ["1", "3"], progress=False)
    parts = codes.directions(4)
    matrix = codes.matrix()
    rows = torch.cat([parts.rows["1"], parts.rows["3"]], 1)
    assert bool((rows >= 0).all())
    assert bool((parts.loadings >= 0).all())
    left = (matrix - parts.loadings @ rows).square().sum() / matrix.square().sum()
    assert parts.explained == pytest.approx(1 - float(left), abs=1e-6)
    pca = codes.directions(2, algorithm="pca")
    centred = (matrix - matrix.mean(0)).double()
    values = torch.linalg.svdvals(centred).square()
    assert pca.explained == pytest.approx(float(values[:2].sum() / values.sum()), abs=1e-5)
    first = pca.loadings[:, 0]  # what differs most is the regime
    assert float(first[side == 0].max()) < float(first[side == 1].min()) or float(
        first[side == 0].min()
    ) > float(first[side == 1].max())
    graph = itg.interaction_graph(
        model, x, ["1", "3"], features=pca.feature_maps(), progress=False
    )  # fmt: skip
    assert graph.weights("1", "3").shape == (2, 2)
    z = graph.features["1"].encode(model[:2](x))
    torch.testing.assert_close(z, model[:2](x) @ pca.rows["1"].T)


def test_groups_file(tmp_path):
    path = tmp_path / "codes.json"
    save_groups(path, ["a", "b"], {"seed": 3})
    assert load_groups(path) == ["a", "b"]
    path.write_text('{"groups": ["a"]}')
    with pytest.raises(InteractGraphError, match="is no file that"):
        load_groups(path)
    path.write_text("{")
    with pytest.raises(InteractGraphError, match="cannot read"):
        load_groups(path)
    with pytest.raises(InteractGraphError, match="there is no file"):
        load_groups(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda c: c.clusters(100), "more than the 60 observations"),
        (lambda c: c.clusters(0), "n_clusters=0"),
        (lambda c: c.clusters(2, algorithm="dbscan"), "choose one of kmeans"),
        (lambda c: c.clusters(2, min_cluster_size=3), "is for algorithm='hdbscan'"),
        (lambda c: c.clusters(2, of="activations"), "keep_activations=True"),
        (lambda c: c.matrix("5"), "no codes of layer '5'"),
        (lambda c: c.groups([1, 2]), "one for each of 60 observations"),
        (lambda c: c.directions(50), "more than 21"),
        (lambda c: c.directions(2, algorithm="ica"), "choose one of nmf, pca"),
    ],
)
def test_bad_input(use, match):
    codes = itg.spline_codes(relu_network(), two_regimes()[0], ["1", "3"], progress=False)
    with pytest.raises(InteractGraphError, match=match):
        use(codes)


def test_layers_with_other_positions():
    class Pooled(PerPosition):
        def __init__(self):
            super().__init__()
            self.last = nn.ReLU()

        def forward(self, x):
            return self.last(super().forward(x).mean(1))

    model = Pooled()
    with pytest.raises(InteractGraphError, match=r"one for each sample, \['last'\]"):
        itg.spline_codes(model, torch.randn(8, 5, 4), ["act", "last"], progress=False)
    for options, match in (
        ({"n_positions": 0}, "n_positions=0"),
        ({"skip_positions": -1}, "skip_positions=-1"),
        ({"labels": [0, 1]}, "labels names 2 samples"),
        ({"labels": range(9)}, "labels names 9 samples and the data has 8"),
    ):
        with pytest.raises(InteractGraphError, match=match):
            itg.spline_codes(model, torch.randn(8, 5, 4), "act", progress=False, **options)
