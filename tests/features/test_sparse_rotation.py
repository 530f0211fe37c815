"""Sparse rotations: a hidden one is found; the pieces of the search against formulas."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError, features, fit_features, fit_sparse_rotations
from interactgraph.features import (
    Dictionary,
    Neurons,
    SparseRotation,
)
from interactgraph.features.matching import match_rows
from interactgraph.features.random_rotation import random_orthogonal
from interactgraph.features.rotation_search import PairJacobians, rotated_squares
from interactgraph.features.sparsity import SPARSITIES, relative_size


class Hidden(nn.Module):
    """Layers a -> b -> c with two inputs to every unit, each layer behind a random rotation.

    Layers widen, so that there are more units than directions to explain: otherwise a rotation
    that makes the weights diagonal would be sparser than the true one.
    """

    def __init__(self, size, seed):
        super().__init__()
        torch.manual_seed(seed)
        sizes = [size, 2 * size, 4 * size]
        self.weights = []
        for n_in, n_out in pairwise(sizes):
            weight = torch.zeros(n_out, n_in, dtype=torch.float64)
            for row in weight:
                row[torch.randperm(n_in)[:2]] = (1 + torch.rand(2).double()) * torch.randn(2).sign()
            self.weights.append(weight)
        self.rotations = [random_orthogonal(n, seed + 10 + k) for k, n in enumerate(sizes)]
        self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        q = self.rotations
        x = torch.tanh(self.a(x) @ q[0].T @ self.weights[0].T)
        x = torch.tanh(self.b(x @ q[1]) @ q[1].T @ self.weights[1].T)
        return self.c(x @ q[2])


FAST = SparseRotation(init="svd", sparsity="l1", eps=1e-4, steps=300, lr=0.1)


@pytest.mark.parametrize("size", [12, 16, 20])
def test_a_hidden_rotation_is_recovered(size):
    model = Hidden(size, 0)
    x = torch.randn(512, size, dtype=torch.float64)
    fit = fit_sparse_rotations(model, x, ["a", "b", "c"], rotation=FAST, progress=False)
    cosines = [
        match_rows(fit.maps[layer].rotation, true)
        for layer, true in zip("abc", model.rotations, strict=True)
    ]
    assert sum(match.mean for match in cosines) / 3 > 0.95
    assert max(match.control.max() for match in cosines) < 0.8
    for share in fit.sparsity.values():
        assert share["after"] < 0.5 * min(share["before"], share["random"])
    assert fit.curves[0][-1] < 0.7 * fit.curves[0][0]


@pytest.mark.parametrize("order", ["from_output", "from_input"])
def test_layer_by_layer(order):
    """From a preferred basis at one end, the others follow."""
    model = Hidden(10, 0)
    x = torch.randn(512, 10, dtype=torch.float64)
    end = "c" if order == "from_output" else "a"
    true = model.rotations["abc".index(end)]
    fit = fit_sparse_rotations(
        model, x, ["a", "b", "c"], rotation=FAST, order=order, progress=False,
        keep={end: features.Linear(true, true.T.contiguous())},
    )  # fmt: skip
    assert set(fit.maps) == set("abc") - {end}
    assert match_rows(fit.maps["b"].rotation, model.rotations[1]).mean > 0.9


def test_output_channels_match_input_channels():
    model = Hidden(10, 0)
    x = torch.randn(512, 10, dtype=torch.float64)
    fit = fit_sparse_rotations(
        model, x, ["a", "b", "c"], rotation=FAST, match=True, progress=False
    )  # fmt: skip
    match = fit.matching["b"]
    assert set(fit.matching) == {"b"}
    assert match.mean > match.control.max() + 0.1


def test_rotated_squares():
    torch.manual_seed(0)
    j, step = torch.randn(6, 2, 3, 4).double(), torch.randn(6, 2, 4).double()
    source, target = random_orthogonal(4, 0), random_orthogonal(3, 1)
    squares = rotated_squares(PairJacobians("x", "y", j), source, target)
    for b in range(6):
        for s in range(2):
            torch.testing.assert_close(squares[b, s], (target @ j[b, s] @ source.T) ** 2)
    # With a step: the square of the rms of gradient x activation, positions summed before.
    squares = rotated_squares(PairJacobians("x", "y", j, step), source, target)
    a = torch.stack([
        sum((target @ j[b, s] @ source.T) * (source @ step[b, s]) for s in range(2))
        for b in range(6)
    ])  # fmt: skip
    torch.testing.assert_close(squares, (a**2).mean(0))


@pytest.mark.parametrize("name", list(SPARSITIES))
def test_measures_prefer_zeros(name):
    sparse = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    spread = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    measure = SPARSITIES[name]
    assert measure(sparse**2, 1e-3) < measure(spread**2, 1e-3)
    assert relative_size(sparse**2) == pytest.approx(0.25)
    assert relative_size(spread**2) == pytest.approx(1.0)


@pytest.mark.parametrize("parametrisation", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("init", ["identity", "pca", "svd", "random"])
def test_every_map_is_orthogonal(parametrisation, init):
    model = Hidden(4, 0)
    x = torch.randn(64, 4, dtype=torch.float64)
    options = SparseRotation(init=init, parametrisation=parametrisation, steps=5, restarts=1)
    fit = fit_sparse_rotations(model, x, ["a", "b"], rotation=options, progress=False)
    for feature_map in fit.maps.values():
        r = feature_map.rotation
        torch.testing.assert_close(r @ r.T, torch.eye(len(r)).double(), atol=1e-9, rtol=0)
    assert len(fit.curves) == 2
    f = model.a(x)
    found = fit.maps["a"]
    torch.testing.assert_close(found.decode(found.encode(f)), f)


def test_as_the_features_of_a_graph(tmp_path):
    """By name and by layer; strengths in the local interaction basis; saved with the graph."""
    model = Hidden(6, 0)
    x = torch.randn(200, 6, dtype=torch.float64)
    option = SparseRotation(base="lib", of="strength", init="identity", rank=4, steps=60)
    graph = itg.interaction_graph(
        model, x, ["a", "b", "c"], features={"a": option, "b": "lib", "c": Neurons()},
        baseline="mean", method="gradient", progress=False,
    )  # fmt: skip
    plain = itg.interaction_graph(
        model, x, ["a", "b", "c"], features={"a": "lib", "b": "lib"}, baseline="mean",
        method="gradient", progress=False,
    )  # fmt: skip
    before, after = (g.weights("a", "b")[:, :4].sum() for g in (plain, graph))
    assert after < before
    graph.save(tmp_path / "g.safetensors")
    again = itg.load(tmp_path / "g.safetensors").features["a"]
    torch.testing.assert_close(again.encode(x), graph.features["a"].encode(x), rtol=0, atol=0)
    assert again.rotation.shape == (6, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseRotation(sparsity="l0"), "'l0' is unknown"),
        (lambda: SparseRotation(init="zeros"), "init='zeros'"),
        (lambda: SparseRotation(steps=0), "steps=0"),
        (lambda: SparseRotation(eps=0.0), "eps=0.0"),
        (lambda: fit_sparse_rotations(nn.Identity(), torch.ones(2, 2), ["input"]), "two layers"),
        (lambda: match_rows(torch.ones(2, 3), torch.ones(2, 4)), "cannot match"),
        (
            lambda: fit_sparse_rotations(
                Hidden(4, 0), torch.ones(8, 4).double(), ["a", "b"], keep={"z": Neurons()}
            ),
            r"keep names \['z'\]",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InteractGraphError, match=message):
        make()


def test_a_chain_of_layers_as_features():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4))
    x = torch.randn(120, 6)
    rotation = SparseRotation(steps=20, n_samples=30, n_rows=3)
    mixed = {"input": "neurons", "1": "pca", "3": rotation, "4": "neurons"}
    for chosen in (rotation, mixed):
        graph = itg.interaction_graph(
            model, x, ["input", "1", "3", "4"], features=chosen, progress=False
        )
        assert graph.features["3"].rotation is not None
        # Closed forms are exact in any orthogonal basis: the sums of squares are those of neurons.
        assert max(graph.completeness.values()) < 1e-4


def test_principal_components_as_the_start():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(90, 5) @ torch.randn(5, 5)
    rotation = SparseRotation(init="pca", steps=1, lr=1e-12)
    fit = fit_sparse_rotations(model, x, ["input", "1", "2"], rotation=rotation, progress=False)
    for layer, activation in (("input", x), ("1", model[:2](x)), ("2", model(x))):
        z = fit.maps[layer].encode(activation.detach()).double()
        covariance = z.mT @ z / len(z)
        variances = covariance.diagonal()
        assert (covariance - variances.diag()).abs().max() < 1e-4 * variances.max()
        assert torch.equal(variances, variances.sort(descending=True).values)


def test_held_out_samples_are_held_out():
    """Half of a small data set is learned from; a single sample leaves nothing to hold out."""
    model, x = Hidden(6, 0), torch.randn(20, 6).double()
    rotation = SparseRotation(steps=3, batch_size=4)
    names = ["a", "b"]
    fit = fit_sparse_rotations(model, x, names, rotation=rotation, progress=False)
    half = fit_sparse_rotations(model, x[:10].repeat(2, 1), names, rotation=rotation,
                                progress=False)  # fmt: skip
    # The same ten samples are learned from, others are measured.
    for layer in names:
        assert torch.equal(fit.maps[layer].rotation, half.maps[layer].rotation)
    one = fit_sparse_rotations(model, x[:1], names, rotation=rotation, progress=False)
    assert one.sparsity == {}


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh()).double()
    x = torch.randn(16, 3, 4, dtype=torch.float64)
    mask = torch.ones(16, 3, dtype=torch.bool)
    mask[::2, 2] = False
    for of in ("jacobian", "strength"):
        rotation = SparseRotation(steps=15, of=of, n_samples=8)
        fits = []
        for value in (0.0, 30.0):
            x[~mask] = value
            data = [{"input": x, "m": mask}]
            fits.append(
                fit_sparse_rotations(
                    model,
                    data,
                    ["input", "1", "3"],
                    rotation=rotation,
                    position_mask="m",
                    forward=lambda model, batch: model(batch["input"]),
                    progress=False,
                )
            )
        for layer, fitted in fits[0].maps.items():
            torch.testing.assert_close(fitted.rotation, fits[1].maps[layer].rotation)
        for pair, shares in fits[0].sparsity.items():
            assert shares == pytest.approx(fits[1].sparsity[pair])


def test_matching_starts_from_two_places():
    """After a single step of an untrained network nothing matches better than at random."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.GELU(), nn.Linear(10, 10), nn.GELU())
    for init in ("identity", "pca", "random"):
        rotation = SparseRotation(init=init, steps=1)
        fit = fit_sparse_rotations(
            model, torch.randn(50, 10), ["input", "1", "3"], rotation=rotation, match=True,
            progress=False,
        )  # fmt: skip
        found = fit.matching["1"]
        assert abs(found.mean - found.control.mean()) < 4 * found.control.std()
    kept = fit_sparse_rotations(
        model, torch.randn(50, 10), ["input", "1", "3"], rotation=rotation, match=True,
        keep={"1": Neurons()}, progress=False,
    )  # fmt: skip
    assert kept.matching == {}


def test_a_fitted_rotation_is_kept():
    model, x = Hidden(4, 0), torch.randn(24, 4).double()
    rotation = SparseRotation(steps=5, n_samples=8)
    names = ["a", "b", "c"]
    first = fit_sparse_rotations(model, x, names, rotation=rotation, progress=False)
    again = fit_sparse_rotations(
        model, x, names, rotation=replace(rotation, steps=9), keep={"b": first.maps["b"]},
        progress=False,
    )  # fmt: skip
    assert "b" not in again.maps
    both = fit_sparse_rotations(
        model, x, names, rotation=rotation, match=True, progress=False,
        keep={"a": Neurons(), "b": first.maps["b"]},
    )  # fmt: skip
    assert list(both.maps) == ["c"]
    assert both.matching == {}


def test_half_precision_and_sequences_of_any_length():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    uneven = [torch.randn(6, 3, 4), torch.randn(6, 2, 4)]
    for of in ("jacobian", "strength"):
        rotation = SparseRotation(steps=3, n_samples=8, of=of)
        fit = fit_sparse_rotations(model, uneven, ["input", "1"], rotation=rotation, progress=False)
        assert fit.sparsity["input", "1"]["after"] > 0
        half = fit_sparse_rotations(
            model.bfloat16(), torch.randn(20, 4).bfloat16(), ["input", "1"], rotation=rotation,
            progress=False,
        )  # fmt: skip
        model.float()
        assert all(fitted.encoder.isfinite().all() for fitted in half.maps.values())


def test_rows_drawn_for_strengths_are_the_same_in_every_batch():
    """Sums over samples of one target feature, never of several."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6)).double()
    x = torch.randn(12, 4, dtype=torch.float64)
    rotation = SparseRotation(of="strength", n_rows=2, steps=4, n_samples=12)
    maps = {"1": rotation, "2": Neurons()}
    one, other = (
        fit_features(model, list(x.split(size)), maps, progress=False)["1"].rotation
        for size in (12, 3)
    )
    torch.testing.assert_close(one, other)


def test_random_rotations_differ_between_layers():
    """A residual stream under one rotation would look as sparse as its neurons."""
    torch.manual_seed(0)
    x = torch.randn(40, 12)
    model = nn.Sequential(nn.Identity(), nn.Identity())
    graph = itg.interaction_graph(
        model, x, ["input", "0", "1"], features="random_rotation", progress=False
    )
    assert relative_size(graph.weights("input", "0").square()) > 0.4
    one, other = (graph.features[layer].encoder for layer in ("input", "0"))
    assert not torch.allclose(one, other)


def test_options_that_do_not_go_together():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(40, 3)
    for options, match in (
        ({"match": True, "order": "from_output"}, "use order='joint'"),
        ({"rotation": SparseRotation(n_rows=2), "order": "from_input"}, "use order='from_output'"),
        ({"keep": {"1": Neurons(), "2": Neurons()}}, "leave one free"),
    ):
        with pytest.raises(InteractGraphError, match=match):
            fit_sparse_rotations(model, x, ["1", "2"], progress=False, **options)
    for bad in ({"rank": -2}, {"rank": 0}, {"n_rows": 0}, {"restarts": -1}, {"steps": 1.5}):
        with pytest.raises(InteractGraphError, match="must be a whole number"):
            SparseRotation(**bad)


def test_dictionaries_are_kept_at_the_last_layer_only():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    data, options = torch.randn(40, 4).split(20), SparseRotation(steps=3, n_samples=10)

    def fit(**keep):
        kept = {layer.strip("_"): basis for layer, basis in keep.items()}
        return fit_sparse_rotations(
            model, data, ["1", "3", "4"], rotation=options, keep=kept, progress=False
        )

    for layer, size in (("1", 5), ("3", 6)):
        with pytest.raises(InteractGraphError, match=f"keep\\['{layer}'\\] is a Dictionary"):
            fit(**{f"_{layer}": Dictionary.random(size, 12, k=3)})
    assert set(fit(_4=Dictionary.random(3, 6, k=2)).maps) == {"1", "3"}
    with pytest.raises(InteractGraphError, match=r"keep\['4'\] is None; give a feature map"):
        fit(_4=None)
