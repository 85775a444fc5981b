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
    schema = msgspec.json.schema(type_)
    schema["$defs"] = {name: _undented(part) for name, part in schema["$defs"].items()}
    return {"$schema": DIALECT, **schema}


def _undented(part: dict[str, Any]) -> dict[str, Any]:
    """The same with its docstring as Python 3.13 keeps it: older ones keep the source's indentation."""
    if "description" not in part:
        return part
    return part | {"description": inspect.cleandoc(part["description"])}


def as_text(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=1).decode() + "\n"
