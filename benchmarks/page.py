"""Sections of benchmarks/README.md, each written by the script that measures it."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent / "README.md"


def rows(section: str) -> list[str]:
    """The rows of a section's table, as they stand on the page."""
    text = PAGE.read_text().partition(f"<!-- {section} -->")[2].partition("<!-- ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return lines[2:]


def write(section: str, lines: list[str]) -> None:
    """Prints a section and replaces it on the page, or adds it."""
    text = "\n".join(lines).strip()
    print(text)
    mark = f"<!-- {section} -->"
    before, _, rest = PAGE.read_text().partition(mark)
    after = rest.partition(mark)[2]
    parts = [before.strip(), f"{mark}\n\n{text}\n\n{mark}", after.strip()]
    PAGE.write_text("\n\n".join(part for part in parts if part) + "\n")
