"""Names of events are an interface: each that the program logs stands in the document, and looks like one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.project.paths import ROOT

pytestmark = pytest.mark.lint

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def logged() -> Iterator[tuple[str, str]]:
    """Where, and the name of the event, for every call of a logger with a literal name."""
    for path in sorted((ROOT / "obt_agent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if _is_logging(node):
                (name,) = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", str(name)


def _is_logging(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
    )


def documented() -> set[str]:
    text = Path(ROOT / "docs/reference/logs.md").read_text()
    return set(re.findall(r"(?m)^\| `([a-z_]+\.[a-z_]+)` \|", text))


def test_every_event_has_a_stable_name_of_two_words() -> None:
    names = {name: where for where, name in logged()}
    assert len(names) > 50
    assert not {name: where for name, where in names.items() if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)}


def test_every_event_is_documented() -> None:
    known = documented()
    assert [
        f"{where}: {name} is missing in docs/reference/logs.md"
        for where, name in logged()
        if name not in known
    ] == []


def test_every_documented_event_is_logged() -> None:
    indirect = {"library.logged", "link.down"}  # not logged by a call of ``log`` with this name
    assert documented() - {name for _, name in logged()} == indirect
