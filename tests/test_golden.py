"""The numbers of many runs are what they were when they were written down, to 1e-12."""

from pathlib import Path

import pytest
import torch
from golden.cases import CASES, numbers
from safetensors.torch import load_file

KEPT = load_file(Path(__file__).parent / "golden" / "graphs.safetensors")


@pytest.mark.parametrize("name", list(CASES))
def test_numbers_are_kept(name):
    found = numbers(CASES[name]())
    kept = {key.split("|")[1]: value for key, value in KEPT.items() if key.startswith(f"{name}|")}
    assert sorted(found) == sorted(kept)
    for key, value in kept.items():
        strength = key.removesuffix(" error")
        # An error is the root of a difference of sums, which carry the rounding of the strength.
        size = 1.0 if "completeness" in key else float(kept[strength].abs().max())
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12 * size, equal_nan=True)
