"""Check what no linter checks: ``python scripts/check_code.py [--report]`` (part of ``make lint``).

- A class name stands for one thing: it is defined once in all packages.
- No function is longer than 60 lines, and no file longer than 400. A file of tests may be longer: it mirrors
  its module, and a reader looks for one test in it.

Prints each place that is over. Exits 1 if there is one, or 0 with ``--report``.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")
MAX_FUNCTION_LINES: Final = 60
MAX_FILE_LINES: Final = 400


def problems(files: Sequence[Path], packaged: Sequence[Path]) -> Iterator[str]:
    """Yield a line for each thing that is not as it must be.

    Args:
        files: those whose functions and lengths are checked.
        packaged: those whose classes need names of their own; a double in a test may repeat one.
    """
    trees = {path: ast.parse(path.read_text()) for path in {*files, *packaged}}
    for path in files:
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES and path.parts[0] != "tests":
            yield f"{path}: {lines} lines, and {MAX_FILE_LINES} is the most"
        yield from _long_functions(path, trees[path])
    classes: dict[str, list[Path]] = defaultdict(list)
    for path in packaged:
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ClassDef):
                classes[node.name.lstrip("_")].append(path)
    for name, places in sorted(classes.items()):
        if len(places) > 1:
            yield f"class {name}: {len(places)} of that name, in {', '.join(map(str, places))}"


def _long_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                most = MAX_FUNCTION_LINES
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, and {most} is the most"


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below these folders of the repository, relative to it."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def main(arguments: list[str]) -> int:
    """Print what is found; return 1 if anything is, unless only a report is wanted."""
    packaged = python_files(*PACKAGES)
    found = list(problems([*packaged, *python_files("benchmarks", "docs", "scripts", "tests")], packaged))
    for line in found:
        sys.stdout.write(line + "\n")
    return 1 if found and "--report" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
