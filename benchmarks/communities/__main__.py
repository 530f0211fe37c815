"""Regenerates the figures of README.md: `python -m benchmarks.communities [SECTION ...]`.

Without sections all are run. Trained graphs are kept in the folder --cache and used again.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from pathlib import Path

import torch

from .arena import arena
from .calibration import calibration, untrained
from .causal import causal
from .errors import errors
from .modules import modules
from .recovery import algorithms, backbones, recovery
from .residual import residual
from .samples import samples
from .size import size
from .soft import affinity

README = Path(__file__).with_name("README.md")
SECTIONS = {
    "recovery": recovery,
    "algorithms": algorithms,
    "calibration": calibration,
    "modules": modules,
    "samples": samples,
    "causal": causal,
    "untrained": untrained,
    "residual": residual,
    "backbones": backbones,
    "size": size,
    "arena": arena,
    "affinity": affinity,
    "errors": errors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--cache", type=Path, default=Path("build/communities"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.sections or SECTIONS:
        start = time.perf_counter()
        text = SECTIONS[name](arguments.cache)
        took = time.perf_counter() - start
        machine = f"{platform.machine()}, one thread, {took:.0f} s"
        write(name, f"{text}\n\nMeasured on {machine}.")
        print(f"{name}: {took:.0f} s")


def write(name: str, text: str) -> None:
    """Replaces one section of the README, or adds it."""
    page = README.read_text() if README.exists() else HEAD
    section = f"<!-- {name} -->\n{text}\n<!-- end {name} -->"
    pattern = re.compile(rf"<!-- {name} -->.*<!-- end {name} -->", re.DOTALL)
    if pattern.search(page):
        page = pattern.sub(lambda _: section, page)
    else:
        page = page.rstrip() + f"\n\n{section}\n"
    README.write_text(page)


HEAD = """# Module finding: recovery, calibration, speed

Written by `python -m benchmarks.communities` from the repository's root; do not edit.
"""

if __name__ == "__main__":
    main()
