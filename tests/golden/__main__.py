"""Writes the kept numbers anew, where they are meant to change: `python -m golden` in `tests/`."""

from pathlib import Path

from safetensors.torch import save_file

from .cases import CASES, numbers

tensors = {}
for name, run in CASES.items():
    for key, value in numbers(run()).items():
        tensors[f"{name}|{key}"] = value.contiguous().clone()
save_file(tensors, Path(__file__).parent / "graphs.safetensors")
print(f"{len(CASES)} runs, {len(tensors)} tensors")
