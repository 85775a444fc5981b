"""What no column and no text can hold, at every route: refused, and nowhere a fault of the server."""

import json
from collections.abc import Iterator
from typing import Any

from tests.server.conftest import Running

METHODS = ("get", "put", "post", "delete", "patch")
NUMBERS = ("integer", "number")
NO_JSON = (
    *(b'"\\ud800"', b'"\\uDFFF"', b'"\\udfff\\ud800"', b'{"\\ud83d": 1}', b'"\xed\xa0\x80"', b'"\xff"'),
    *(b"1e999", b"-1.5E+400", b"NaN", b"-Infinity", b"[Infinity]", b"1" * 5000),
)
TEXTS = {
    b'"\\ud83d\\ude00"': "\U0001f600",
    b'"\\uD83D\\uDE00"': "\U0001f600",
    b'"\\\\ud800"': "\\ud800",
    b'"\\\\uD800 NaN 1e999"': "\\uD800 NaN 1e999",
    b'"\xf0\x9f\x98\x80"': "\U0001f600",
}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every route that is described: its method, its path, and what is said of it."""
    for path, found in document["paths"].items():
        for method, operation in found.items():
            if method in METHODS:
                yield method, path, operation


def is_number(schema: dict[str, Any]) -> bool:
    return any(one.get("type") in NUMBERS for one in [schema, *schema.get("anyOf", [])])


def sample(schema: dict[str, Any], schemas: dict[str, Any], text: object, *, depth: int = 0) -> Any:
    """A body of that shape with ``text`` wherever a text, or anything, may stand."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas, text, depth=depth + 1)
    if depth > 6:
        return None
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return sample(schema[choice][0], schemas, text, depth=depth + 1)
    kind = schema.get("type")
    if kind == "array":
        return [sample(schema.get("items", {}), schemas, text, depth=depth + 1)]
    if kind == "object":
        fields = schema.get("properties", {})
        given = {name: sample(one, schemas, text, depth=depth + 1) for name, one in fields.items()}
        return given or {"x": text}
    return 1 if kind in NUMBERS else text


async def test_numbers_of_more_than_64_bits_are_refused_at_every_route(server: Running) -> None:
    document = (await server.http.get("/api/v1/openapi.json")).json()
    asked = 0
    async with server.agent() as agent:
        await server.http.put("/api/v1/saved-plans/p", json={"plan": {"num_iterations": 1}})
        stands_for = {"agent": agent.agent_id, "machine": agent.agent_id, "name": "p"}
        for method, path, operation in operations(document):
            for parameter in operation.get("parameters", []):
                if not is_number(parameter["schema"]):
                    continue
                for number in (1 << 63, 10**25, -(10**25), "1e999", "nan"):
                    where, given = parameter["in"], {parameter["name"]: str(number)}
                    others = {
                        one["name"]: given.get(one["name"], stands_for.get(one["name"], "x"))
                        for one in operation["parameters"]
                        if one["in"] == "path"
                    }
                    answer = await server.http.request(
                        method,
                        path.format_map(others),
                        params=given if where == "query" else None,
                        headers=given if where == "header" else None,
                    )
                    assert answer.status_code < 500, (method, path, given, answer.text)
                    if where == "path":
                        assert answer.status_code in (404, 422), (method, path, given)
                    asked += 1
    assert asked > 20


async def test_what_is_no_json_is_refused_in_the_body_of_every_route(server: Running) -> None:
    document = (await server.http.get("/api/v1/openapi.json")).json()
    headers, asked = {"Content-Type": "application/json"}, 0
    async with server.agent() as agent:
        stands_for = {"agent": agent.agent_id, "method": "show_model"}
        for method, path, operation in operations(document):
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            named = {one["name"]: stands_for.get(one["name"], "1") for one in operation.get("parameters", [])}
            whole = sample(body["schema"], document["components"]["schemas"], "\0")
            url, text = path.format_map(named), json.dumps(whole).encode()
            assert b'"\\u0000"' in text, (method, path)
            for odd in NO_JSON:
                content = text.replace(b'"\\u0000"', odd)
                answer = await server.http.request(method, url, content=content, headers=headers)
                assert answer.status_code == 422, (method, path, odd, answer.text)
                assert answer.json()["error"]["kind"] == "invalid_params", (method, path, odd)
                asked += 1
    assert asked > 20


async def test_pairs_of_surrogates_and_text_that_looks_like_half_of_one_are_taken(server: Running) -> None:
    headers = {"Content-Type": "application/json"}
    for odd in TEXTS:
        answer = await server.http.post(
            "/api/v1/join-tokens", content=b'{"note": ' + odd + b"}", headers=headers
        )
        assert answer.status_code == 201, (odd, answer.text)
    listed = (await server.http.get("/api/v1/join-tokens")).json()
    assert sorted(one["note"] for one in listed) == sorted(TEXTS.values())


async def test_numbers_of_more_than_64_bits_in_a_free_object_are_no_fault(server: Running) -> None:
    async with server.agent() as agent:
        answers = [
            await server.http.put("/api/v1/saved-plans/p", json={"plan": {"num_iterations": 10**25}}),
            await server.http.post(
                "/api/v1/campaigns",
                json={
                    "plans": [{"name": "quick", "version": 10**25}],
                    "models": ["m:latest"],
                    "targets": {"agents": [agent.agent_id]},
                },
            ),
        ]
    for answer in answers:
        assert answer.status_code in (404, 422), answer.text
