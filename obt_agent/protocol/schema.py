"""JSON Schemas and the AsyncAPI document of ``obt.v1``, made from the table of methods. Pure.

``json_schemas`` gives one JSON Schema (2020-12) with every type under ``$defs``; ``asyncapi`` gives an
AsyncAPI 3.0 document that names each method, its direction, parameters and result.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from obt_agent.benchmark.schema import portable
from obt_agent.protocol import envelope, limits
from obt_agent.protocol.errors import CODE_OF_KIND, WireError
from obt_agent.protocol.methods import METHODS, Method
from obt_agent.protocol.streams import Item, LargeFinal, SeriesItem

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID: Final = "urn:obt:v1:messages"
# Types that no row of the table names: what frames, errors and streams are made of.
_ENVELOPES: Final = (
    envelope.Request,
    envelope.Notification,
    envelope.Response,
    envelope.ErrorResponse,
    WireError,
    Item,
    SeriesItem,
    LargeFinal,
)


def _types() -> list[Any]:
    """Every type of the table, each once, in the table's order; ``dict`` is any JSON object."""
    seen: dict[Any, None] = {}
    for method in METHODS.values():
        for type_ in (method.params, method.result):
            if type_ is not None and type_ is not dict:
                seen[type_] = None
    return [*seen, *_ENVELOPES]


def _components(template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    schemas, components = msgspec.json.schema_components(_types(), ref_template=template)
    return portable(list(schemas)), portable(components)


def json_schemas() -> dict[str, Any]:
    """All message types as one JSON Schema document."""
    _, components = _components("#/$defs/{name}")
    return {
        "$schema": SCHEMA_DIALECT,
        "$id": SCHEMA_ID,
        "title": "obt.v1",
        "description": "Message types of the wire between an OBT agent and an OBT server.",
        "x-methods": {name: _method_entry(method, "#/$defs/") for name, method in METHODS.items()},
        "x-errors": dict(CODE_OF_KIND),
        "$defs": dict(sorted(components.items())),
    }


def _reference(type_: Any, prefix: str) -> dict[str, Any]:
    if type_ is dict:
        return {"type": "object"}
    return {"$ref": prefix + type_.__name__}


def _method_entry(method: Method, prefix: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "sender": method.sender,
        "shape": method.shape,
        "summary": method.summary,
        "params": _reference(method.params, prefix),
    }
    if method.result is not None:
        entry["result"] = _reference(method.result, prefix)
    if method.opaque:
        entry["opaque"] = True
    if method.changes:
        entry["changes"] = True
    return entry


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, from the agent's point of view (``send`` is what the agent sends)."""
    _, components = _components("#/components/schemas/{name}")
    messages = {name: _message(method) for name, method in METHODS.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "OBT agent link",
            "version": limits.SUBPROTOCOL,
            "description": "JSON-RPC 2.0 over a WebSocket that the agent opens: docs/reference/protocol.md",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "link": {
                "address": limits.CONNECT_PATH,
                "description": f"WebSocket, subprotocol {limits.SUBPROTOCOL}, one JSON object a text frame.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {name: _operation(method) for name, method in METHODS.items()},
        "components": {"messages": messages, "schemas": dict(sorted(components.items()))},
    }


def _operation(method: Method) -> dict[str, Any]:
    return {
        "action": "send" if method.sender == "agent" else "receive",
        "channel": {"$ref": "#/channels/link"},
        "messages": [{"$ref": f"#/channels/link/messages/{method.name}"}],
        "summary": method.summary,
    }


def _message(method: Method) -> dict[str, Any]:
    prefix = "#/components/schemas/"
    required = ["jsonrpc", "method"] + ([] if method.result is None else ["id"])
    properties: dict[str, Any] = {
        "jsonrpc": {"const": "2.0"},
        "method": {"const": method.name},
        "params": _reference(method.params, prefix),
    }
    if method.result is not None:
        properties["id"] = {"type": ["integer", "string"]}
    message: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "payload": {"type": "object", "required": required, "properties": properties},
        "x-shape": method.shape,
    }
    if method.result is not None:
        message["x-result"] = _reference(method.result, prefix)
    return message
