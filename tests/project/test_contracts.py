"""What the import contracts in pyproject.toml cannot say."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.project.paths import ROOT

pytestmark = pytest.mark.lint

# Named everywhere by design: the log, the types of every value that crosses the wire, and plain retries, of
# which each edge has its own.
SHARED_LIBRARIES = {"msgspec", "structlog", "tenacity"}


def third_party_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    names = {alias.name for node in imports for alias in node.names} | {node.module or "" for node in froms}
    roots = {name.split(".")[0] for name in names}
    return roots - set(sys.stdlib_module_names) - {"obt_agent"} - SHARED_LIBRARIES


def test_each_third_party_library_of_the_agent_is_imported_by_one_package() -> None:
    libraries: dict[str, set[str]] = {}
    agent = ROOT / "obt_agent"
    for path in agent.rglob("*.py"):
        package = path.relative_to(agent).parts[0].removesuffix(".py")
        for library in third_party_imports(path):
            libraries.setdefault(library, set()).add(package)
    assert {library: sorted(found) for library, found in libraries.items() if len(found) > 1} == {}


def test_only_the_readers_of_linux_and_of_snapshots_know_where_linux_keeps_its_files() -> None:
    agent = ROOT / "obt_agent"
    knowing = (agent / "hardware/host/linux", agent / "hardware/snapshot")
    found = {
        f"{path.relative_to(ROOT)}: {node.value}"
        for path in agent.rglob("*.py")
        if not any(path.is_relative_to(folder) for folder in knowing)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(^|[^\w.])/?(proc|sys)/\w|/(proc|sys)\b", node.value)
    }
    assert found == set()


def test_psutil_is_imported_by_the_hosts_readers_alone() -> None:
    agent = ROOT / "obt_agent"
    found = {path for path in agent.rglob("*.py") if "psutil" in third_party_imports(path)}
    assert {str(path.relative_to(agent)) for path in found} == {
        "hardware/host/portable.py",
        "hardware/host/psutil_reader.py",
    }
