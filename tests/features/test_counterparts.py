"""Features of two maps matched by direction."""

import numpy as np
import pytest
import torch

from interactgraph import InteractGraphError
from interactgraph.features import Dictionary, FeatureMap, Linear, Neurons, counterparts


def test_a_permuted_basis_with_other_signs():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order, sign = torch.randperm(6), torch.tensor([1.0, -1, 1, 1, -1, -1]).double()
    noisy = basis[order] * sign[:, None] + 0.01 * torch.randn(6, 6)
    found = counterparts(Linear(basis), Linear(noisy), 6, 6)
    assert found.index.tolist() == order.argsort().tolist()
    np.testing.assert_allclose(found.cosines, sign[order.argsort()], atol=0.01)


def test_neurons_are_unit_vectors():
    rows = torch.eye(5, dtype=torch.float64)[[3, 1]]
    found = counterparts(Neurons(), Linear(rows, rows.mT), 5, 2)
    assert found.index.tolist() == [-1, 1, -1, 0, -1]
    assert np.isnan(found.cosines[[0, 2, 4]]).all()
    back = counterparts(Linear(rows, rows.mT), Neurons(), 2, 5)
    assert back.index.tolist() == [3, 1]


def test_equal_maps_go_by_number():
    """Also where two features of a map point the same way."""
    twice = Linear(torch.ones(3, 4), torch.ones(4, 3))
    same = Linear(torch.ones(3, 4), torch.ones(4, 3))
    for one, other in ((Neurons(), Neurons()), (twice, same)):
        assert counterparts(one, other, 3, 3).index.tolist() == [0, 1, 2]


def test_errors_of_dictionaries_belong_together():
    torch.manual_seed(0)
    encoder = torch.randn(7, 4)
    one = Dictionary(encoder, encoder.mT.contiguous())
    turned = encoder.flip(0)
    other = Dictionary(turned, turned.mT.contiguous())
    assert counterparts(one, other, 8, 8).index.tolist() == [6, 5, 4, 3, 2, 1, 0, 7]
    without = Dictionary(turned, turned.mT.contiguous(), error=False)
    assert counterparts(one, without, 8, 7).index.tolist() == [6, 5, 4, 3, 2, 1, 0, -1]


def test_what_has_no_directions():
    class Squares(FeatureMap):
        kind = "squares"
        is_fitted = True
        n_features = 3

        def bind(self, layer, shape, feature_dim):
            return self

        def encode(self, activation):
            return activation**2

        def decode(self, features):
            return features**0.5

        def state(self):
            return {"kind": "squares"}, {}

    with pytest.raises(InteractGraphError, match="features of a Squares have no directions"):
        counterparts(Squares(), Linear(torch.eye(3)), 3, 3)
    with pytest.raises(InteractGraphError, match="sizes 3 and 4"):
        counterparts(Linear(torch.eye(3)), Linear(torch.eye(4)), 3, 4)
