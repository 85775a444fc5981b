"""The JSON Schemas of plan and result, generated from the types. Pure."""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec

from obt_agent.benchmark.plan import Plan
from obt_agent.benchmark.result import BenchmarkResult

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# File names, and what they describe.
TYPES: Final[dict[str, type[msgspec.Struct]]] = {
    "benchmark-plan.json": Plan,
    "benchmark-result.json": BenchmarkResult,
}


def schema_of(type_: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of one type. Unknown fields are allowed: later versions add some."""
    return {"$schema": DIALECT, **portable(msgspec.json.schema(type_))}


def portable(part: Any) -> Any:
    """Return a schema, or a part of one, as every release of Python and msgspec would make it."""
    if isinstance(part, list):
        return [portable(one) for one in part]
    if not isinstance(part, dict):
        return part
    same = {name: portable(value) for name, value in part.items()}
    # Before Python 3.13 a docstring keeps the indentation of its source. Readers of JSON know Markdown.
    if isinstance(same.get("description"), str):
        same["description"] = inspect.cleandoc(same["description"]).replace("``", "`")
    # msgspec 0.19 puts null first, later ones put it last.
    if isinstance(same.get("anyOf"), list):
        same["anyOf"].sort(key=lambda one: one == {"type": "null"})
    return same


def as_text(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=1).decode() + "\n"
