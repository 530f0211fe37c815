"""PCA, the local interaction basis and the random control against formulas written out."""

import networks
import numpy as np
import pytest
import torch
from torch import nn

from interactgraph import InteractGraphError, features, fit_features
from interactgraph.features import PCA, LocalInteractionBasis, Neurons, RandomRotation
from interactgraph.features.moments import moments_of


def chain(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3)
    ).to(dtype)
    return model, torch.randn(40, 5, dtype=dtype)


def fit(model, data, maps, **options):
    return fit_features(model, data, maps, progress=False, **options)


def by_hand(f, function, target_encoder=None, nodes=None):
    """Eigenvalues and encoder of the local interaction basis from dense Jacobians.

    f is [b, s, d], function maps it to [b, t, i].
    """
    mean = f.reshape(-1, f.shape[-1]).mean(0)
    rows = (f - mean).reshape(-1, f.shape[-1])
    g = rows.T @ rows / len(rows)
    u = ([1.0], [1.0]) if nodes is None else np.polynomial.legendre.leggauss(nodes)
    if nodes is not None:
        u = ((u[0] + 1) / 2, u[1] / 2)
    m = torch.zeros_like(g)
    for b in range(len(f)):
        jacobian = sum(
            w
            * torch.autograd.functional.jacobian(
                lambda x: function(x[None])[0], mean + a * (f[b] - mean)
            )
            for a, w in zip(*u, strict=True)
        )  # [t, i, s, d]
        if target_encoder is not None:
            jacobian = torch.einsum("kd,tdsj->tksj", target_encoder, jacobian)
        m += torch.einsum("tisj,tisk->jk", jacobian, jacobian)
    m /= f.shape[0] * f.shape[1]
    d, vectors = torch.linalg.eigh(g)
    keep = d > 1e-12 * d.max()
    vectors, root = vectors[:, keep], d[keep].sqrt()
    values, v = torch.linalg.eigh(root[:, None] * (vectors.T @ m @ vectors) * root)
    order = values.argsort(descending=True)
    order = order[values[order] > 1e-12 * values.max()]
    encoder = values[order].sqrt()[:, None] * (v[:, order].T / root) @ vectors.T
    return values[order], encoder


def assert_same_rows(found, expected, tolerance=1e-7):
    """Rows agree up to their sign."""
    sign = (found * expected).sum(1, keepdim=True).sign()
    scale = expected.abs().max(1, keepdim=True).values
    assert ((found - sign * expected) / scale).abs().max() < tolerance


def test_moments_in_batches_are_those_of_all_rows():
    torch.manual_seed(0)
    rows = torch.randn(50, 4, dtype=torch.float64) + 1e6
    found = moments_of(rows.split([7, 0, 1, 20, 22]))
    assert found.n_rows == 50
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, rows.T.cov(correction=0), rtol=1e-8, atol=1e-9)


def test_pca_is_the_eigenbasis_of_the_covariance():
    model, x = chain()
    found = fit(model, x.split(13), {"1": PCA(), "3": Neurons()})["1"]
    f = model[:2](x).detach()
    values, vectors = torch.linalg.eigh(f.T.cov(correction=0))
    torch.testing.assert_close(found.eigenvalues, values.flip(0)[: found.n_features], rtol=1e-8,
                               atol=1e-14)  # fmt: skip
    assert_same_rows(found.encoder, vectors.flip(1).T[: found.n_features], 1e-5)
    z = found.encode(f)
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.decode(z), f, rtol=0, atol=1e-6)


def test_pca_truncation():
    torch.manual_seed(0)
    x = torch.randn(4000, 4, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 1e-3])
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 2)).double()

    def rank(**options):
        return fit(model, x, {"0": PCA(**options), "1": Neurons()})["0"].n_features

    assert rank() == 4
    assert rank(rank=2) == 2
    assert rank(threshold=1e-5) == 3
    assert rank(explained_variance=0.6) == 1
    assert rank(explained_variance=0.9) == 2
    assert rank(explained_variance=1.0) == 4
    assert rank(explained_variance=0.9, rank=1) == 1


@pytest.mark.parametrize("nodes", [None, 5])
def test_local_interaction_basis_of_a_chain(nodes):
    """The last layer first, every layer in the coordinates of the next one's basis."""
    model, x = chain()
    lib = LocalInteractionBasis(jacobians="sample" if nodes is None else "path", n_steps=nodes or 1)
    maps = fit(model, x.split(17), {"input": lib, "1": lib, "3": lib, "4": Neurons()})

    f, encoder = {}, None
    for layer, start, stop in (("3", 4, 5), ("1", 2, 4), ("input", 0, 2)):
        f[layer] = model[:start](x).detach()[:, None]
        values, encoder = by_hand(f[layer], model[start:stop], encoder, nodes)
        found = maps[layer]
        n = min(len(values), found.n_features)
        assert abs(len(values) - found.n_features) <= 1
        torch.testing.assert_close(found.eigenvalues[:n], values[:n], rtol=1e-7, atol=1e-10)
        assert_same_rows(found.encoder[: n - 2], encoder[: n - 2], 1e-4)
        encoder = found.encoder  # so that a sign does not matter later


def test_affine_segments_are_recognised():
    model, x = chain()
    maps = fit(model, x, {"3": LocalInteractionBasis(), "4": LocalInteractionBasis()})
    assert maps["3"].way == "affine"
    # Nothing follows the last layer: its basis is its principal components.
    logits = model(x).detach()
    values = torch.linalg.eigvalsh(logits.T.cov(correction=0)).flip(0)
    torch.testing.assert_close(maps["4"].eigenvalues, values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(maps["4"].encoder @ maps["4"].encoder.T, torch.eye(3).double(),
                               rtol=0, atol=1e-9)  # fmt: skip


def test_a_segment_that_is_affine_on_some_batches_only():
    """ReLUs that are all on in the first batch and not in the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].bias.fill_(50.0)
    x = torch.cat([torch.randn(20, 3), torch.randn(20, 3) * 40]).double()
    found = fit(model, x.split(20), {"0": LocalInteractionBasis(), "3": Neurons()})["0"]
    values, _ = by_hand(x[:, None], model[1:])
    torch.testing.assert_close(found.eigenvalues, values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["transformer", "convolutional"])
def test_local_interaction_basis_with_positions(name):
    case = networks.make(name)
    maps = {case.source: LocalInteractionBasis(), case.target: Neurons()}
    found = fit(case.model, case.batches, maps)[case.source]
    activations = [case.by_hand(batch)[0] for batch in case.batches]
    function = case.by_hand(case.batches[0])[1]
    last = torch.cat(activations).movedim(case.feature_dim, -1).detach()
    positions, d = last.shape[1:-1], last.shape[-1]

    def flat(z):
        y = function(z.reshape(len(z), *positions, d).movedim(-1, case.feature_dim))
        return y.reshape(len(y), -1, y.shape[-1])

    values, encoder = by_hand(last.reshape(len(last), -1, d), flat)
    torch.testing.assert_close(found.eigenvalues, values[: found.n_features], rtol=1e-8, atol=1e-12)
    assert_same_rows(found.encoder, encoder[: found.n_features], 1e-5)


def test_rows_and_columns_agree():
    """Few targets are differentiated backwards, few sources forwards."""
    torch.manual_seed(0)
    x = torch.randn(30, 3, dtype=torch.float64)
    wide = nn.Sequential(nn.Identity(), nn.Linear(3, 20), nn.Tanh()).double()
    found = fit(wide, x, {"0": LocalInteractionBasis(), "2": Neurons()})["0"]
    assert found.way == "columns"
    values, _ = by_hand(x[:, None], wide[1:])
    torch.testing.assert_close(found.eigenvalues, values, rtol=1e-9, atol=1e-12)


def test_probes_are_unbiased():
    model, x = chain()
    data = [x] * 400
    probing = LocalInteractionBasis(n_probes=2, seed=1)
    exact = fit(model, x, {"input": LocalInteractionBasis(), "3": Neurons()})["input"]
    found = fit(model, data, {"input": probing, "3": Neurons()})["input"]
    assert (exact.way, found.way) == ("rows", "probes")
    # 400 passes over 40 samples: the error of an eigenvalue is about sqrt(2 / (400 * 40)).
    torch.testing.assert_close(found.eigenvalues[:4], exact.eigenvalues[:4], rtol=0.05, atol=0)


def test_more_features_than_samples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    found = fit(model, x, {"1": LocalInteractionBasis(), "2": Neurons()})["1"]
    assert found.full_rank == 5  # six samples, less the mean
    assert found.n_features == 2  # that many the target reads
    assert torch.isfinite(found.encoder).all()
    f = model[:2](x).detach()
    torch.testing.assert_close(model[2](found.decode(found.encode(f))), model[2](f), atol=1e-9,
                               rtol=0)  # fmt: skip


def test_float32_models():
    model, x = chain()
    exact = fit(model, x, {"1": LocalInteractionBasis(), "3": Neurons()})["1"]
    model, x = model.float(), x.float()
    found = fit(model, x, {"1": LocalInteractionBasis(), "3": Neurons()})["1"]
    assert found.encoder.dtype == torch.float32
    n = 5
    torch.testing.assert_close(found.eigenvalues[:n].double(), exact.eigenvalues[:n], rtol=1e-4,
                               atol=0)  # fmt: skip


def test_random_rotation_is_orthogonal_and_reproducible():
    model, x = chain()
    one, two, other = (
        fit(model, x, {"1": RandomRotation(seed=seed), "3": Neurons()})["1"] for seed in (0, 0, 1)
    )
    torch.testing.assert_close(one.encoder @ one.encoder.T, torch.eye(6).double())
    torch.testing.assert_close(one.encoder, two.encoder, rtol=0, atol=0)
    assert (one.encoder - other.encoder).abs().max() > 0.1
    f = model[:2](x).detach()
    torch.testing.assert_close(one.decode(one.encode(f)), f)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCA(10), "options go by name"),
        (lambda: PCA(rank=0), "rank=0"),
        (lambda: PCA(explained_variance=1.5), "explained_variance=1.5"),
        (lambda: LocalInteractionBasis(threshold=-1.0), "threshold=-1.0"),
        (lambda: LocalInteractionBasis(threshold="x"), "threshold='x' must be a number"),
        (lambda: PCA(threshold=None), "threshold=None must be a number"),
        (lambda: PCA(explained_variance="x"), "explained_variance='x' must be a number"),
        (lambda: LocalInteractionBasis(n_probes=0), "n_probes=0"),
        (lambda: LocalInteractionBasis(jacobians="mean"), "'sample' or 'path'"),
        (lambda: PCA().n_features, "not fitted"),
        (lambda: features.Linear(torch.ones(3)), "must be a matrix"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(InteractGraphError, match=message):
        make()
