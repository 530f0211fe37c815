import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from interactgraph.communities import adjusted_mutual_information, adjusted_rand_index

CASES = [(40, 3, 5), (300, 12, 7), (25, 24, 25), (10, 1, 4), (2, 2, 2)]


@pytest.mark.parametrize(("n", "k", "m"), CASES)
def test_as_scikit_learn(n, k, m):
    generator = np.random.default_rng(n)
    for _ in range(5):
        a, b = generator.integers(0, k, n), generator.integers(0, m, n)
        b[: n // 2] = a[: n // 2]
        ami, ari = adjusted_mutual_information(a, b), adjusted_rand_index(a, b)
        assert ami == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-10)
        assert ari == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


@pytest.mark.parametrize("score", [adjusted_mutual_information, adjusted_rand_index])
def test_equal_up_to_names(score):
    a = np.array([0, 0, 1, 1, 2, 2, 2])
    assert score(a, 5 - a) == pytest.approx(1)
    assert score(np.zeros(4), np.ones(4)) == 1
    assert score(np.arange(4), np.arange(4)[::-1]) == 1
    assert score(np.zeros(0), np.zeros(0)) == 1


@pytest.mark.parametrize("score", [adjusted_mutual_information, adjusted_rand_index])
def test_zero_by_chance(score):
    generator = np.random.default_rng(0)
    values = [score(generator.integers(0, 5, 60), generator.integers(0, 9, 60)) for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5
