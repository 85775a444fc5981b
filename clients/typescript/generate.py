"""Write ``src/messages.ts``, the types of ``obt.v1`` in TypeScript, from the protocol's schema.

``python clients/typescript/generate.py`` writes it, ``--check`` exits 1 when it is not current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from obt_agent.protocol import schema
from obt_agent.protocol.errors import CODE_OF_KIND

TARGET: Final = Path(__file__).parent / "src/messages.ts"
_HEAD: Final = "// Written by clients/typescript/generate.py from the protocol's schema.\n"
_PLAIN: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def type_of(part: dict[str, Any]) -> str:
    """Return the type of a value, as TypeScript writes it."""
    match part:
        case {"$ref": str(reference)}:
            found = reference.rpartition("/")[2]
        case {"enum": list(values)}:
            found = " | ".join(map(json.dumps, values))
        case {"const": value}:
            found = json.dumps(value)
        case {"anyOf": list(options)}:
            found = " | ".join(dict.fromkeys(map(type_of, options)))
        case {"allOf": list(parts)}:
            found = " & ".join(map(type_of, parts))
        case {"type": "array"}:
            found = f"ReadonlyArray<{type_of(part.get('items', {}))}>"
        case {"type": "object"}:
            found = _object(part)
        case _:
            found = _PLAIN.get(str(part.get("type")), "unknown")
    return found


def _object(part: dict[str, Any]) -> str:
    if "properties" in part:
        return "{ " + " ".join(_fields(part)) + " }"
    values = part.get("additionalProperties")
    return f"Record<string, {type_of(values) if isinstance(values, dict) else 'unknown'}>"


def _fields(part: dict[str, Any]) -> Iterator[str]:
    required = part.get("required", ())
    for name, field in part["properties"].items():
        yield f"{name}{'' if name in required else '?'}: {type_of(field)};"


def messages() -> str:
    """Return the whole file."""
    document = schema.json_schemas()
    return "\n".join([_HEAD, *_definitions(document["$defs"]), *_methods(document), ""])


def _definitions(definitions: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, part in definitions.items():
        if part.get("description"):
            text = part["description"].replace("*/", "* /").replace("\n", "\n * ").replace(" * \n", " *\n")
            yield f"/**\n * {text}\n */"
        if "properties" in part:
            yield f"export interface {name} {{"
            yield from (f"  {line}" for line in _fields(part))
            yield "}\n"
        else:
            yield f"export type {name} = {type_of(part)};\n"


def _methods(document: dict[str, Any]) -> Iterator[str]:
    methods, definitions = document["x-methods"], document["$defs"]
    for sender in ("agent", "server"):
        yield f"/** What the {sender} sends, by method. Requests alone have results; `item` streams. */"
        yield f"export interface {sender.title()}Methods {{"
        for name, entry in methods.items():
            if entry["sender"] == sender:
                kinds = ("params", "result", "item")
                parts = [f"{kind}: {type_of(entry[kind]) if kind in entry else 'never'}" for kind in kinds]
                # Ollama's own fields travel beside those that the protocol reads.
                if entry.get("opaque"):
                    parts[0] += " & Record<string, unknown>"
                yield f"  {json.dumps(name)}: {{ {'; '.join(parts)} }};"
        yield "}\n"
    yield "/** The fields that the parameters of each method must have. */"
    yield "export const REQUIRED: Readonly<Record<string, readonly string[]>> = {"
    for name, entry in methods.items():
        required = definitions[entry["params"]["$ref"].rpartition("/")[2]].get("required", [])
        yield f"  {json.dumps(name)}: {json.dumps(required)},"
    yield "};\n"
    yield "/** JSON-RPC's code of each kind of error. */"
    codes = json.dumps(CODE_OF_KIND, indent=2)
    yield f"export const ERROR_CODES: Readonly<Record<string, number>> = {codes};"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not TARGET.is_file() or TARGET.read_text() != messages():
            sys.exit("clients/typescript/src/messages.ts is not current: run make docs")
    else:
        TARGET.write_text(messages())
