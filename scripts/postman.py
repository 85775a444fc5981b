"""Write ``docs/obt-server.postman_collection.json``, every route of the server for Postman and Bruno.

``python scripts/postman.py`` writes it from the server's OpenAPI document; ``--check`` exits 1 when it is not
current.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from console.schemas import document

TARGET: Final = Path(__file__).parents[1] / "docs/obt-server.postman_collection.json"
SCHEMA: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
METHODS: Final = ("get", "post", "put", "patch", "delete")


def collection() -> dict[str, Any]:
    """Return the collection: a folder for each tag, a request for each route."""
    described = document()
    folders: dict[str, list[dict[str, Any]]] = {}
    for path, operations in described["paths"].items():
        for method in METHODS:
            if method in operations:
                operation = operations[method]
                tag = (operation.get("tags") or ["other"])[0]
                request = _request(method, path, operation, described["components"]["schemas"])
                folders.setdefault(tag, []).append(request)
    return {
        "info": {
            "name": "obt-server",
            "description": "Set url and token; make one with: obt-server operators token NAME --name TEXT",
            "schema": SCHEMA,
        },
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}]},
        "variable": [{"key": "url", "value": "http://127.0.0.1:8881"}, {"key": "token", "value": ""}],
        "item": [{"name": tag, "item": items} for tag, items in sorted(folders.items())],
    }


def _request(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    parameters = operation.get("parameters", [])
    # Optional ones are there and switched off, so that they can be found.
    query = [
        {
            "key": one["name"],
            "value": "",
            "disabled": not one.get("required", False),
            "description": one.get("description", ""),
        }
        for one in parameters
        if one["in"] == "query"
    ]
    parts = [re.sub(r"\{(\w+)\}", r":\1", part) for part in path.strip("/").split("/")]
    # A path that ends in a slash is another route than the one without.
    parts += [""] if path.endswith("/") and path != "/" else []
    url: dict[str, Any] = {
        "raw": "{{url}}/" + "/".join(parts),
        "host": ["{{url}}"],
        "path": parts,
        "query": query,
        "variable": [{"key": one["name"], "value": ""} for one in parameters if one["in"] == "path"],
    }
    request: dict[str, Any] = {"method": method.upper(), "header": [], "url": url}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        text = json.dumps(_example(body.get("schema", {}), schemas), indent=2)
        request["body"] = {"mode": "raw", "raw": text, "options": {"raw": {"language": "json"}}}
    return {"name": operation.get("summary", path), "request": request}


def _example(part: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return the smallest value of a schema: required fields only."""
    match part:
        case {"$ref": str(reference)}:
            return _example(schemas[reference.rpartition("/")[2]], schemas)
        case {"anyOf": [first, *_]}:
            return _example(first, schemas)
        case {"const": value} | {"enum": [value, *_]}:
            return value
        case {"properties": dict(fields)}:
            return {name: _example(fields[name], schemas) for name in part.get("required", ())}
        case _:
            empty = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": []}
            return empty.get(str(part.get("type")), {})


def text() -> str:
    """Return the file's text."""
    return json.dumps(collection(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text())
    elif not TARGET.is_file() or TARGET.read_text() != text():
        sys.exit(f"{TARGET.name} is not current: run make docs")
