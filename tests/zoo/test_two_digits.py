"""The demo's network."""

import numpy as np
import pytest
import torch

from interactgraph.zoo.two_digits import two_digits

pytest.importorskip("sklearn")


def test_two_digits_learns_and_repeats_itself():
    torch.set_num_threads(1)
    a, b = (two_digits(3, epochs=6, n_pairs=6000) for _ in range(2))
    assert min(a.accuracy) > 0.8
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)
    for layer in a.layers:
        assert len(a.labels[layer]) == len(a.truth[layer])
        assert np.array_equal(a.truth[layer], b.truth[layer])
    assert a.labels["input"][64 + 9] == "right pixel 1,1"
    assert a.labels[a.layers[-1]][13] == "right is 3"
