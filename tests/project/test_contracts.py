"""The import contracts cover the plan, and the list in pyproject.toml keeps up with the tree."""

import ast
import sys
import tomllib
from pathlib import Path

from tests.project.places import ROOT

PURE = {
    "obt_agent.backoff",
    "obt_agent.benchmark.compare",
    "obt_agent.benchmark.expansion",
    "obt_agent.benchmark.metrics",
    "obt_agent.benchmark.plan",
    "obt_agent.benchmark.presets",
    "obt_agent.benchmark.prompts",
    "obt_agent.benchmark.result",
    "obt_agent.benchmark.statistics",
    "obt_agent.ollama.ndjson",
    "obt_agent.protocol",
}


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_every_module_that_computes_stands_under_the_contract_of_purity() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {c["name"]: c for c in pyproject["tool"]["importlinter"]["contracts"]}
    named = set(contracts["What computes does no I/O"]["source_modules"])
    missing = {module for module in PURE if exists(module)} - named
    assert not missing, f"name these in pyproject.toml, under tool.importlinter: {sorted(missing)}"


# Named everywhere by design: the log, and the types of every value that crosses the wire.
SHARED_LIBRARIES = {"msgspec", "structlog"}


def third_party_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    names = {alias.name for node in imports for alias in node.names} | {node.module or "" for node in froms}
    roots = {name.split(".")[0] for name in names}
    return roots - set(sys.stdlib_module_names) - {"obt_agent"} - SHARED_LIBRARIES


def test_each_third_party_library_of_the_agent_is_imported_by_one_room() -> None:
    rooms: dict[str, set[str]] = {}
    agent = ROOT / "obt_agent"
    for path in agent.rglob("*.py"):
        room = path.relative_to(agent).parts[0].removesuffix(".py")
        for library in third_party_imports(path):
            rooms.setdefault(library, set()).add(room)
    assert {library: sorted(found) for library, found in rooms.items() if len(found) > 1} == {}
