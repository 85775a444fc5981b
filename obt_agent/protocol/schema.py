"""JSON Schemas and the AsyncAPI document of ``obt.v1``, made from the table of methods. Pure.

``json_schemas`` gives one JSON Schema (2020-12) with every type under ``$defs``; ``asyncapi`` gives an
AsyncAPI 3.0 document that names each method, its direction, parameters and result.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from obt_agent.benchmark.result import ResourceSample
from obt_agent.benchmark.schema import portable
from obt_agent.hardware.samples import Sample
from obt_agent.protocol import envelope, limits
from obt_agent.protocol.errors import CODE_OF_KIND, WireError
from obt_agent.protocol.methods import METHODS, Method
from obt_agent.protocol.streams import Item, LargeFinal, SeriesItem

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID: Final = "urn:obt:v1:messages"
_ENVELOPES: Final = (envelope.Request, envelope.Notification, envelope.Response, envelope.ErrorResponse)
_SAMPLES: Final = {"hardware_watch": Sample, "benchmark_metrics": ResourceSample}
"""What the items of each live series hold."""
# Types that no row of the table names: what frames, errors and streams are made of.
_OTHERS: Final = (*_ENVELOPES, WireError, Item, SeriesItem, LargeFinal, *_SAMPLES.values())


def _types() -> list[Any]:
    """Every type of the table, each once, in the table's order; ``dict`` is any JSON object."""
    seen: dict[Any, None] = {}
    for method in METHODS.values():
        for type_ in (method.params, method.result):
            if type_ is not None and type_ is not dict:
                seen[type_] = None
    return list(dict.fromkeys([*seen, *_OTHERS]))


def _components(template: str) -> dict[str, Any]:
    _, found = msgspec.json.schema_components(_types(), ref_template=template)
    components: dict[str, Any] = portable(found)
    # These types hold what is left when a frame was read: its version was checked, its parts are raw.
    for type_ in _ENVELOPES:
        _as_sent(components[type_.__name__])
    components["RequestId"] = components["Request"]["properties"]["id"]
    return components


def _as_sent(envelope_schema: dict[str, Any]) -> None:
    properties, required = envelope_schema["properties"], envelope_schema["required"]
    envelope_schema["properties"] = {"jsonrpc": {"const": "2.0"}, **properties}
    for name in {"params", "result"} & set(properties):
        envelope_schema["properties"][name] = {"type": "object"}
    envelope_schema["required"] = ["jsonrpc", *(name for name in required if name != "params")]


def json_schemas() -> dict[str, Any]:
    """All message types as one JSON Schema document."""
    return {
        "$schema": SCHEMA_DIALECT,
        "$id": SCHEMA_ID,
        "title": "obt.v1",
        "description": "Message types of the wire between an OBT agent and an OBT server.",
        "x-methods": {name: _method_entry(method, "#/$defs/") for name, method in METHODS.items()},
        "x-errors": dict(CODE_OF_KIND),
        "$defs": dict(sorted(_components("#/$defs/{name}").items())),
    }


def _reference(type_: Any, prefix: str) -> dict[str, Any]:
    if type_ is dict:
        return {"type": "object"}
    return {"$ref": prefix + type_.__name__}


def _item(method: Method, prefix: str) -> dict[str, Any] | None:
    """Return the schema of what a stream's ``items`` are; None for a method that streams nothing."""
    if method.shape == "stream":
        return _reference(Item, prefix)
    if method.shape != "series":
        return None
    sample = {"type": "object", "properties": {"sample": _reference(_SAMPLES[method.name], prefix)}}
    return {"allOf": [_reference(SeriesItem, prefix), sample]}


def _may_be_left_out(type_: Any) -> bool:
    return type_ is dict or not any(field.required for field in msgspec.structs.fields(type_))


def _method_entry(method: Method, prefix: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "sender": method.sender,
        "shape": method.shape,
        "summary": method.summary,
        "params": _reference(method.params, prefix),
    }
    if method.result is not None:
        entry["result"] = _reference(method.result, prefix)
    item = _item(method, prefix)
    if item is not None:
        entry["item"] = item
    if method.opaque:
        entry["opaque"] = True
    if method.changes:
        entry["changes"] = True
    return entry


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, from the agent's point of view (``send`` is what the agent sends)."""
    components = _components("#/components/schemas/{name}")
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
    required = ["jsonrpc", "method"] if method.result is None else ["jsonrpc", "id", "method"]
    if not _may_be_left_out(method.params):
        required.append("params")
    properties: dict[str, Any] = {
        "jsonrpc": {"const": "2.0"},
        "method": {"const": method.name},
        "params": _reference(method.params, prefix),
    }
    if method.result is not None:
        properties["id"] = {"$ref": f"{prefix}RequestId"}
    message: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "payload": {"type": "object", "required": required, "properties": properties},
        "x-shape": method.shape,
    }
    if method.result is not None:
        message["x-result"] = _reference(method.result, prefix)
    item = _item(method, prefix)
    if item is not None:
        message["x-item"] = item
    return message
