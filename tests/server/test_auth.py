"""Who may ask: every route, by what it refuses; sign-in; the guards against other pages and other names."""

import asyncio
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, WebSocketRoute

from obt_agent.errors import AgentError
from obt_server import app as application
from obt_server.auth import OriginPolicy, secrets
from obt_server.auth.limiter import FREE_FAILURES, MAX_DELAY_S, FailureLimiter
from obt_server.auth.operators import MAX_IN_LINE, Operators, SignInRefused
from obt_server.auth.turns import Places
from obt_server.rest import health
from obt_server.store.operators import ApiToken
from obt_server.store.postgresql import DatabaseUnavailable
from tests.server.conftest import HASHED, PASSWORD, Running, running
from tests.server.databases import sqlite_alone
from tests.waiting import until

SIGN_IN = ("POST", "/api/v1/session")
ENROL = ("POST", "/api/v1/agents/enroll")
CONNECT = "/api/v1/agents/connect"
CSRF = {"Origin": "https://evil.example"}
REBOUND = {"Host": "evil.example"}


def routes(found: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    """All routes with their paths, those of included routers among them (FastAPI keeps these as a tree)."""
    for route in found:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            context = vars(route)["include_context"]
            yield from routes(inner.routes, prefix + context.prefix)
        else:
            yield re.sub(r"\{[^}]*\}", "1", prefix + getattr(route, "path", "")), route


def http_routes(server: Running) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, route in routes(server.parts.app.routes)
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]


def socket_routes(server: Running) -> list[str]:
    return [path for path, route in routes(server.parts.app.routes) if isinstance(route, WebSocketRoute)]


@pytest.fixture
async def nobody(server: Running) -> Any:
    async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


async def test_every_http_route_refuses_who_is_not_signed_in(
    server: Running, nobody: httpx.AsyncClient
) -> None:
    found = http_routes(server)
    described = (await server.http.get("/api/v1/openapi.json")).json()["paths"]
    assert {re.sub(r"\{[^}]*\}", "1", path) for path in described} <= {path for _, path in found}
    assert len(found) > 30
    assert {SIGN_IN, ENROL, ("GET", "/api/v1/openapi.json"), ("GET", "/api/v1/events")} <= set(found)
    for method, path in found:
        answer = await nobody.request(method, path)
        if (method, path) in (SIGN_IN, ENROL):
            assert answer.status_code == 422, "they ask for a secret of their own"
        elif path in health.PATHS:
            assert answer.text == "ok\n", "one word is all that they say"
            continue
        elif path.endswith("/agents/connect"):
            assert answer.status_code == 426, "it names what a proxy left out, and does nothing else"
            continue
        else:
            assert (answer.status_code, path) == (401, path)
            assert answer.json()["error"]["kind"] == "not_signed_in"
        bearer = {"Authorization": "Bearer obtk_wrong", "Cookie": "obt_sign_in=wrong"}
        answer = await nobody.request(method, path, headers=bearer)
        assert answer.status_code in (401, 422), path


async def test_every_http_route_refuses_pages_of_other_sites_and_other_names(server: Running) -> None:
    asked = [(method, path) for method, path in http_routes(server) if path not in health.PATHS]
    for method, path in asked:
        foreign = await server.http.request(method, path, headers=CSRF)
        assert (foreign.status_code, path) == (403, path)
        assert foreign.json()["error"]["kind"] == "origin_refused"
        rebound = await server.http.request(method, path, headers=REBOUND)
        assert (rebound.status_code, path) == (421, path)


@pytest.mark.parametrize("headers", [{}, CSRF, {"Origin": "null"}])
async def test_every_socket_refuses_before_the_upgrade(server: Running, headers: dict[str, str]) -> None:
    found = socket_routes(server)
    assert set(found) == {CONNECT, "/api/v1/models/generate/1"}
    for path in found:
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(
                server.url.replace("http", "ws") + path,
                additional_headers=headers,
                subprotocols=[websockets.Subprotocol("obt.v1")],
                proxy=None,
            ):
                pass
        assert caught.value.response.status_code == (403 if headers else 401)


async def test_a_socket_under_another_name_is_refused(server: Running) -> None:
    for path in socket_routes(server):
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(
                "ws://evil.example" + path,
                host="127.0.0.1",
                port=int(server.url.rsplit(":", 1)[1]),
                proxy=None,
            ):
                pass
        assert caught.value.response.status_code == 421


async def test_an_unknown_path_and_the_guard_around_everything(
    server: Running, nobody: httpx.AsyncClient
) -> None:
    unknown = await nobody.get("/api/v1/nothing")
    assert (unknown.status_code, unknown.json()["error"]["kind"]) == (404, "not_found")
    wrong = await nobody.put("/api/v1/agents")
    assert (wrong.status_code, wrong.json()["error"]["kind"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]
    assert (await nobody.get("/api/v1/nothing", headers=CSRF)).status_code == 403
    assert (await nobody.get("/", headers=REBOUND)).status_code == 421


async def test_answers_carry_headers_that_bind_a_browser(server: Running) -> None:
    headers = (await server.http.get("/api/v1/agents")).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


async def test_a_browser_signs_in_asks_and_signs_out(server: Running, nobody: httpx.AsyncClient) -> None:
    answer = await nobody.post("/api/v1/session", json={"name": "admin", "password": PASSWORD})
    assert (answer.status_code, answer.json()) == (200, {"name": "admin"})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie, "this server speaks http on the loopback"
    own = {"Origin": server.url}
    assert (await nobody.get("/api/v1/session", headers=own)).json() == {"name": "admin"}
    assert (await nobody.get("/api/v1/agents", headers=own)).status_code == 200
    kept = dict(nobody.cookies)
    assert (await nobody.delete("/api/v1/session", headers=own)).status_code == 204
    assert (await nobody.get("/api/v1/session")).status_code == 401
    stolen = {"Cookie": f"obt_sign_in={kept['obt_sign_in']}"}
    assert (await nobody.get("/api/v1/session", headers=stolen)).status_code == 401, (
        "ended here, not only there"
    )


async def test_signing_out_with_a_token_ends_no_browser(server: Running) -> None:
    assert (await server.http.delete("/api/v1/session")).status_code == 204
    assert (await server.http.get("/api/v1/session")).json() == {"name": "admin"}


async def test_an_expired_sign_in_is_none(server: Running, nobody: httpx.AsyncClient) -> None:
    store = server.parts.operators.store
    await store.add_sign_in(secrets.sha256("old"), "admin", 1.0, time.time() - 1)
    answer = await nobody.get("/api/v1/session", headers={"Cookie": "obt_sign_in=old"})
    assert answer.status_code == 401


async def test_guessing_passwords_is_slowed_down_also_for_the_right_one(
    server: Running, nobody: httpx.AsyncClient
) -> None:
    answer = await nobody.post("/api/v1/session", json={"name": "admin", "password": "wrong"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (401, "sign_in_refused")
    assert answer.json()["error"]["message"] == "Wrong name or password."
    for _ in range(10):  # as many more: no machine is so slow that their delay is over
        server.parts.operators._pairs.failed(("admin", "127.0.0.1"), time.monotonic())  # noqa: SLF001
    answer = await nobody.post("/api/v1/session", json={"name": "admin", "password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 900


async def test_attackers_from_many_addresses_keep_no_operator_out(server: Running) -> None:
    operators = server.parts.operators
    for n in range(10):
        for _ in range(6):
            with contextlib.suppress(AgentError):
                await operators.sign_in("admin", "wrong", f"192.0.2.{n}")
    assert (await operators.sign_in("admin", PASSWORD, "198.51.100.1")).operator == "admin"


async def test_a_right_password_is_never_refused_where_the_operator_signed_in_before(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 0.0)
    monkeypatch.setattr("obt_server.auth.operators.PACE_S", 0.0)
    operators = server.parts.operators
    await operators.sign_in("admin", PASSWORD, "2001:db8::1")
    for _ in range(8):
        with pytest.raises(SignInRefused):
            await operators.sign_in("admin", "wrong", "2001:db8::2")
    assert (await operators.sign_in("admin", PASSWORD, "2001:db8::3")).operator == "admin"
    restarted = Operators(operators.store)
    assert await restarted.store.signed_in_from("admin", "2001:db8::/64")


async def test_a_password_is_checked_late_after_wrong_ones_where_the_operator_signed_in_before(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 1000.0)
    operators, asked = server.parts.operators, list[str]()
    for name in ("admin", "eve"):
        await operators.store.set_password(name, HASHED, 0.0)
        await operators.sign_in(name, PASSWORD, "192.0.2.1")
    for n in range(3):  # people mistype
        with pytest.raises(SignInRefused):
            await operators.sign_in("admin", f"wrong {n}", "192.0.2.1")
    await operators.sign_in("admin", PASSWORD, "192.0.2.1")
    for _ in range(20):
        operators._pairs.failed(("admin", "192.0.2.1"), time.monotonic())  # noqa: SLF001
    password = operators.store.password

    async def noted(name: str) -> str | None:
        asked.append(name)
        return await password(name)

    operators.store.password = noted  # type: ignore[method-assign] # notes whose, then does it
    guess = asyncio.create_task(operators.sign_in("admin", "wrong", "192.0.2.1"), name="guess")
    try:
        for _ in range(3):
            await operators.sign_in("eve", PASSWORD, "192.0.2.1")
        assert asked == ["eve"] * 3, "the guess waits first, and another operator of that address does not"
    finally:
        guess.cancel()
        await asyncio.wait([guess])


async def test_guesses_that_wait_keep_no_right_password_out_where_the_operator_signed_in_before(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 1000.0)
    operators, asked = server.parts.operators, 0
    await operators.sign_in("admin", PASSWORD, "192.0.2.1")
    for _ in range(20):
        operators._pairs.failed(("admin", "192.0.2.1"), time.monotonic())  # noqa: SLF001
    signed_in_from = operators.store.signed_in_from

    async def noted(operator: str, address: str) -> bool:
        nonlocal asked
        found = await signed_in_from(operator, address)
        asked += 1
        return found

    operators.store.signed_in_from = noted  # type: ignore[method-assign] # counts, when it has done it
    guesses = [asyncio.create_task(operators.sign_in("admin", "wrong", "192.0.2.1")) for _ in range(50)]
    try:
        await until(lambda: asked == 50)
        monkeypatch.setattr(
            "obt_server.auth.operators.MAX_LATE_S", 0.0
        )  # its own time is over, theirs is not
        assert (await operators.sign_in("admin", PASSWORD, "192.0.2.1")).operator == "admin"
        assert not any(one.done() for one in guesses)
    finally:
        for one in guesses:
            one.cancel()
        await asyncio.wait(guesses)


async def test_a_right_password_comes_after_those_guesses_that_came_before_it(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 0.0)
    monkeypatch.setattr("obt_server.auth.operators.PACE_S", 0.0)
    operators, tries = server.parts.operators, 0
    await operators.sign_in("admin", PASSWORD, "192.0.2.1")

    async def guess_on() -> None:
        nonlocal tries
        while True:
            tries += 1
            with contextlib.suppress(AgentError):
                await operators.sign_in("admin", "wrong", "192.0.2.1")

    guessers = [asyncio.create_task(guess_on()) for _ in range(6)]
    try:
        await until(lambda: tries > 6)
        assert (await operators.sign_in("admin", PASSWORD, "192.0.2.1")).operator == "admin"
    finally:
        for one in guessers:
            one.cancel()
        await asyncio.wait(guessers)


async def test_guesses_where_the_operator_signed_in_before_are_checked_at_a_pace(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 0.0)
    monkeypatch.setattr("obt_server.auth.operators.PACE_S", 1000.0)
    operators = server.parts.operators
    await operators.store.set_password("eve", HASHED, 0.0)
    for name in ("admin", "eve"):
        await operators.sign_in(name, PASSWORD, "192.0.2.1")
    guesses = [asyncio.create_task(operators.sign_in("admin", "wrong", "192.0.2.1")) for _ in range(9)]
    try:
        await until(lambda: sum(one.done() for one in guesses) == FREE_FAILURES)
        assert (await operators.sign_in("eve", PASSWORD, "192.0.2.1")).operator == "eve"
        assert sum(one.done() for one in guesses) == FREE_FAILURES, "the others wait at their pace"
    finally:
        for one in guesses:
            one.cancel()
        await asyncio.wait(guesses)


@pytest.mark.parametrize("known", [True, False])
async def test_guesses_at_one_address_fill_no_places_of_another(
    server: Running, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr("obt_server.auth.operators.MAX_LATE_S", 0.0)
    monkeypatch.setattr("obt_server.auth.operators.PACE_S", 0.0)
    operators = server.parts.operators
    most = MAX_IN_LINE
    await operators.store.set_password("eve", HASHED, 0.0)
    if known:
        most = 5
        operators._places[True] = Places(most, 99)  # noqa: SLF001 - fewer to wait for
        await operators.sign_in("admin", PASSWORD, "192.0.2.1")
        await operators.sign_in("eve", PASSWORD, "192.0.2.2")
    async with operators._hashing[known].turn("192.0.2.9"):  # noqa: SLF001 - so that none ends meanwhile
        tries = [asyncio.create_task(operators.sign_in("admin", "wrong", "192.0.2.1")) for _ in range(150)]
        await until(lambda: sum(one.done() for one in tries) == 150 - most)
        other = asyncio.create_task(operators.sign_in("eve", PASSWORD, "192.0.2.2"))
    kinds = [getattr(one, "kind", None) for one in await asyncio.gather(*tries, return_exceptions=True)]
    assert kinds.count("sign_in_refused") == most
    assert kinds.count("too_many_attempts") == 150 - most
    assert (await other).operator == "eve"
    await operators.sign_in("admin", PASSWORD, "192.0.2.3")


async def test_a_right_password_forgets_the_wrong_ones(server: Running, nobody: httpx.AsyncClient) -> None:
    for _ in range(2):
        for _ in range(4):
            await nobody.post("/api/v1/session", json={"password": "wrong"})
        answer = await nobody.post("/api/v1/session", json={"password": PASSWORD})
        assert answer.status_code == 200


async def test_a_changed_password_ends_sign_ins(server: Running, nobody: httpx.AsyncClient) -> None:
    await nobody.post("/api/v1/session", json={"password": PASSWORD})
    await server.parts.operators.set_password("admin", "a new one, longer")
    assert (await nobody.get("/api/v1/session")).status_code == 401
    assert (await nobody.post("/api/v1/session", json={"password": PASSWORD})).status_code == 401
    assert (await nobody.post("/api/v1/session", json={"password": "a new one, longer"})).status_code == 200


@sqlite_alone
async def test_who_is_known_may_ask_while_another_process_holds_the_database(
    server: Running, nobody: httpx.AsyncClient, tmp_path: Path
) -> None:
    made = (await server.http.post("/api/v1/api-tokens", json={"name": "cron"})).json()
    await nobody.post("/api/v1/session", json={"password": PASSWORD})
    use = {"Authorization": f"Bearer {made['secret']}"}
    with contextlib.closing(sqlite3.connect(tmp_path / "obt.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        by_cookie = await nobody.get("/api/v1/agents")
        by_token = await nobody.get("/api/v1/agents", headers=use)
        other.execute("ROLLBACK")
    assert (by_cookie.status_code, by_token.status_code) == (200, 200)

    async def stored() -> bool:
        listed = (await server.http.get("/api/v1/api-tokens")).json()
        return listed[1]["last_used_at"] is not None

    await until(stored)


async def test_api_tokens_are_made_shown_without_secret_and_revoked(
    server: Running, nobody: httpx.AsyncClient
) -> None:
    made = (await server.http.post("/api/v1/api-tokens", json={"name": "cron", "valid_for_s": 3600})).json()
    use = {"Authorization": f"bearer {made['secret']}"}
    assert (await nobody.get("/api/v1/session", headers=use)).json() == {"name": "admin"}

    async def listed() -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = (await server.http.get("/api/v1/api-tokens")).json()
        return shown

    async def noted() -> bool:
        return (await listed())[1]["last_used_at"] is not None

    await until(noted)
    assert [one["name"] for one in await listed()] == ["tests", "cron"]
    assert made["secret"] not in str(await listed())
    path = f"/api/v1/api-tokens/{made['token']['id']}"
    assert (await server.http.delete(path)).status_code == 204
    assert (await nobody.get("/api/v1/session", headers=use)).status_code == 401
    assert (await server.http.delete(path)).status_code == 404


async def test_an_expired_api_token_is_none(server: Running, nobody: httpx.AsyncClient) -> None:
    secret, _ = await server.parts.operators.new_token("admin", "old", time.time() - 1)
    use = {"Authorization": f"Bearer {secret}"}
    assert (await nobody.get("/api/v1/session", headers=use)).status_code == 401


async def test_bodies_over_the_limit_are_refused_before_they_are_read(server: Running) -> None:
    agent_id, _ = await server.enrol()
    path = f"/api/v1/agents/{agent_id}/commands/embed"
    large = await server.http.post(path, content=b"x" * ((32 << 20) + 1))
    assert large.status_code == 413

    async def unsized() -> Any:
        yield b"{}"

    assert (await server.http.post(path, content=unsized())).status_code == 411
    join = await server.http.post("/api/v1/agents/enroll", content=b" " * 70_000)
    assert join.status_code == 413


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'"x"', b"[" * 100 + b"]" * 100, b'{"a":' * 70 + b"1" + b"}" * 70]
)
async def test_a_command_whose_body_is_no_object_is_refused(server: Running, body: bytes) -> None:
    async with server.agent() as agent:
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/embed", content=body)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid_params")


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        ("/benchmarks", b"{}", "body.agent", "body.agent: Field required; body.plan: Field required."),
        ("/benchmarks", b'{"agent":', "body.9", "Expecting value"),
        ("/benchmarks?limit=0", None, "query.limit", "greater than or equal to 1"),
        ("/benchmarks?state=gone", None, "query.state", "'completed'"),
        ("/api-tokens", b'{"name": ""}', "body.name", "at least 1 character"),
        ("/api-tokens", b'{"name": "n", "valid_for_s": 315360001}', "body.valid_for_s", "less than or equal"),
        ("/api-tokens", b'{"name": "n", "valid_for_s": 1e300}', "body.valid_for_s", "less than or equal"),
        (
            "/benchmarks",
            b'{"agent": "a", "plan": {}, "not_after": 1e12}',
            "body.not_after",
            "less than or equal",
        ),
        ("/benchmarks", b'{"agent": "a", "plan": {}, "not_after": -1}', "body.not_after", "greater than or"),
        ("/agents/enroll", b"{}", "body.agent", "Field required"),
    ],
)
async def test_a_request_of_another_shape_is_refused_like_every_other_and_told_where(
    server: Running, path: str, body: bytes | None, field: str, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    method = "GET" if body is None else "POST"
    answer = await server.http.request(method, "/api/v1" + path, content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["kind"], error["detail"]) == (422, "invalid_params", {"field": field})
    assert words in error["message"]


async def test_a_body_without_its_content_type_is_refused_with_the_header_to_add(server: Running) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d sends
    answer = await server.http.post("/api/v1/benchmarks", content=b'{"agent": "a"}', headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


async def test_a_command_without_its_parameters_or_of_no_such_name_is_refused(server: Running) -> None:
    async with server.agent() as agent:
        path = f"/api/v1/agents/{agent.agent_id}/commands/"
        answer = await server.http.post(path + "generate", json={"prompt": "p"})
        assert (answer.status_code, "model" in answer.json()["error"]["message"]) == (422, True)
        for name in ("nothing", "link.credit", "credentials.rotate"):
            assert (await server.http.post(path + name)).status_code in (404, 422)
        assert not agent.requests
        with pytest.raises(Exception, match="no streamed command"):
            async with server.parts.hub.stream(agent.agent_id, "embed"):
                pass


async def test_openapi_describes_the_interface(server: Running) -> None:
    described = (await server.http.get("/api/v1/openapi.json")).json()
    assert described["openapi"].startswith("3.")
    paths = set(described["paths"])
    assert {
        "/api/v1/agents",
        "/api/v1/agents/{agent}/commands/{method}",
        "/api/v1/benchmarks/compare",
    } <= paths
    assert described["security"] == [{"apiToken": []}, {"signIn": []}]
    assert described["paths"]["/api/v1/session"]["post"]["security"] == []
    commands = described["paths"]["/api/v1/agents/{agent}/commands/{method}"]["post"]
    named = {one["name"]: one["schema"] for one in commands["parameters"]}
    assert {"generate", "cancel"} <= set(named["method"]["enum"])


async def test_openapi_says_of_every_route_what_it_does_and_how_it_refuses(server: Running) -> None:
    described = (await server.http.get("/api/v1/openapi.json")).json()
    shape = {"$ref": "#/components/schemas/ObtError"}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            answers = operation["responses"]
            if path in health.PATHS:
                continue
            assert {"401", "403", "421", "422", "default"} <= set(answers), (method, path)
            refusals = {status: answer for status, answer in answers.items() if not status.startswith("2")}
            for status, answer in refusals.items():
                assert answer["content"]["application/json"]["schema"] == shape, (method, path, status)
            good = next(answer for status, answer in answers.items() if status.startswith("2"))
            assert "content" in good or "204" in answers, (method, path)
    schemas = described["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    assert set(schemas["ObtError"]["properties"]) == {"error"}


async def test_openapi_names_the_type_of_every_answer(server: Running) -> None:
    document = (await server.http.get("/api/v1/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json")
                # What a command answers depends on the command.
                any_command = path.endswith(("/commands/{method}", "/signed-requests"))
                if not status.startswith("2") or content is None or any_command:
                    continue
                schema = content["schema"]
                items = schema.get("items") or schema.get("additionalProperties") or schema
                assert "$ref" in items, (method, path, schema)
    for name in (
        "AgentView",
        "HardwareView",
        "JobView",
        "ResultView",
        "Comparison",
        "ModelView",
        "PlanFields",
    ):
        assert name in schemas, sorted(schemas)
    shown = schemas["AgentView"]["properties"]
    assert shown["ollama"]["anyOf"][0] == {"$ref": "#/components/schemas/OllamaState"}
    assert "default" not in schemas["OllamaState"]["properties"]["version"]


async def test_the_cookie_is_for_https_alone_where_browsers_come_by_https(tmp_path: Path) -> None:
    settings = application.AppSettings(database=tmp_path / "db", hosts=("obt.example",), https=True)
    parts = application.build(settings)
    try:
        await parts.operators.set_password("admin", PASSWORD)
        transport = httpx.ASGITransport(parts.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://obt.example") as client:
            body = {"password": PASSWORD}
            answer = await client.post(
                "/api/v1/session", json=body, headers={"Origin": "https://obt.example"}
            )
            assert "Secure" in answer.headers["set-cookie"]
            downgraded = {"Origin": "http://obt.example"}
            assert (await client.post("/api/v1/session", json=body, headers=downgraded)).status_code == 403
    finally:
        parts.database.close()
        parts.database.close()


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8881", None, None),
        ("LOCALHOST", "http://localhost", None),
        ("[::1]:8881", "http://[::1]:8881", None),
        ("obt.example", "https://obt.example", None),
        ("obt.example", "http://obt.example:8881", 403),
        ("obt.example", "file://obt.example", 403),
        ("obt.example", "null", 403),
        ("obt.example", "http://[", 403),
        ("obt.example:443", "https://obt.example", None),
        ("obt.example", "https://OBT.example:443", None),
        ("obt.example:80", "http://obt.example", None),
        ("obt.example:80", "https://obt.example", 403),
        ("obt.example:443", "https://obt.example:8443", 403),
        ("obt.example.", "https://obt.example", None),
        ("xn--mller-kva.example", "https://xn--mller-kva.example", None),
        ("[2001:db8:0:0::1]", "http://[2001:DB8::1]:80", None),
        ("obt.example/evil", None, 421),
        ("user@obt.example", None, 421),
        ("obt.example", "https://user@obt.example", 403),
        ("obt.example", "https://obt.example/page", 403),
        ("obt.example:", "https://obt.example", None),
        ("obt.example.evil.example", None, 421),
        ("evil.example:8881", None, 421),
        ("[::1", None, 421),
        ("", None, 421),
    ],
)
def test_host_and_origin(host: str, origin: str | None, status: int | None) -> None:
    policy = OriginPolicy.of(
        ["localhost", "[::1]", "OBT.example", "müller.example", "2001:db8::1"], https_only=False
    )
    given = {"host": host} | ({} if origin is None else {"origin": origin})
    refusal = policy.check(Headers(given))
    assert (None if refusal is None else refusal.status) == status


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (
            {"host": "obt_upstream", "x-forwarded-for": "192.0.2.1"},
            ("proxy_set_header Host", "--behind-proxy"),
        ),
        ({"host": "obt.example"}, ("--allowed-host", "'obt.example'")),
        (
            {"host": "127.0.0.1:8881", "origin": "https://obt.example"},
            ("proxy_set_header Host", "ProxyPreserve"),
        ),
    ],
)
def test_a_refusal_names_the_setting_that_is_the_usual_cause(
    headers: dict[str, str], words: tuple[str, ...]
) -> None:
    refusal = OriginPolicy.of(["127.0.0.1"], https_only=False).check(Headers(headers))
    assert refusal is not None
    assert all(word in refusal.message for word in words), refusal.message


@pytest.mark.parametrize("path", ["/obt/api/v1/session", "/api/v1/session"])
async def test_under_a_path_the_cookie_is_of_that_path_whether_the_proxy_takes_it_off_or_not(
    tmp_path: Path, path: str
) -> None:
    database = tmp_path / "obt.sqlite3"
    parts = application.build(application.AppSettings(database=database, root_path="/obt"))
    await parts.operators.store.set_password("admin", HASHED, 0.0)
    transport = httpx.ASGITransport(app=parts.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post(path, json={"name": "admin", "password": PASSWORD})
        page = await client.get("/obt")
    parts.database.close()
    assert (answer.status_code, "Path=/obt/;" in answer.headers["set-cookie"]) == (200, True), answer.text
    assert page.headers["location"] == "/obt/"


@pytest.mark.parametrize(
    ("prefix", "path"),
    [("/obt", "/obt/"), ("/obt/", "/obt/"), ("/obt; Domain=evil.example", "/"), ("obt", "/")],
)
async def test_a_forwarded_prefix_is_believed_where_it_is_a_path(
    tmp_path: Path, prefix: str, path: str
) -> None:
    database = tmp_path / "obt.sqlite3"
    parts = application.build(application.AppSettings(database=database, forwarded_prefix=True))
    await parts.operators.store.set_password("admin", HASHED, 0.0)
    transport = httpx.ASGITransport(app=parts.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"name": "admin", "password": PASSWORD}
        answer = await client.post("/api/v1/session", json=body, headers={"X-Forwarded-Prefix": prefix})
    parts.database.close()
    assert f"Path={path};" in answer.headers["set-cookie"]


def test_the_delay_grows_with_each_failure_of_a_key_and_for_no_other() -> None:
    limiter = FailureLimiter(free=2)
    assert limiter.failed("a", 0) == 0
    assert [limiter.failed("a", 0) for _ in range(4)] == [1, 2, 4, 8]
    assert limiter.wait_s("a", 5) == 3
    assert limiter.wait_s("b", 5) == 0
    assert max(limiter.failed("a", 0) for _ in range(100)) == MAX_DELAY_S
    limiter.succeeded("a")
    assert limiter.wait_s("a", 0) == 0


def test_passwords_are_salted_and_checked() -> None:
    one, two = secrets.hash_password("secret"), secrets.hash_password("secret")
    assert one != two
    assert secrets.check_password("secret", one)
    assert not secrets.check_password("Secret", one)
    assert len({secrets.new_password() for _ in range(20)}) == 20


async def test_many_restarts_later_the_first_operator_is_not_made_again(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert await server.parts.operators.create_first("admin") is None
        assert not await server.parts.operators.store.create_first("late", "hash", 1.0)


# -- open streams -----------------------------------------------------------------------------------------


async def test_an_open_stream_of_events_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with running(tmp_path, recheck_s=0.02) as server, server.agent():
        made = (await server.http.post("/api/v1/api-tokens", json={"name": "viewer"})).json()
        headers = {"Authorization": f"Bearer {made['secret']}"}
        async with (
            asyncio.timeout(20),
            httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20, trust_env=False) as viewer,
            viewer.stream("GET", "/api/v1/events") as stream,
        ):
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: agent"
            await server.http.delete(f"/api/v1/api-tokens/{made['token']['id']}")
            rest = [line async for line in lines if line]
        assert rest[-2] == "event: error"
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["kind"] == "not_signed_in"


async def test_nobody_can_be_known_while_the_database_is_away_and_who_was_let_in_stays(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, recheck_s=0.001) as server:
        store = server.parts.operators.store
        valid_token, times = store.valid_token, 0

        async def away(sha256: str, at: float) -> ApiToken | None:
            nonlocal times
            times += 1
            raise DatabaseUnavailable("away", retry_after_ms=1000)

        async with asyncio.timeout(60), server.http.stream("GET", "/api/v1/events") as stream:
            names = (line async for line in stream.aiter_lines() if line.startswith("event: "))
            assert await anext(names) == "event: current"
            store.valid_token = away  # type: ignore[method-assign] # as where the database is away
            await until(lambda: times > 2)
            answer = await server.http.get("/api/v1/agents")
            assert (answer.headers["Retry-After"], answer.json()["error"]["kind"]) == ("1", "storage_failed")
            url = f"{server.url.replace('http', 'ws')}/api/v1/models/generate/m?client_id=pc"
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(
                    url,
                    additional_headers={"Authorization": server.http.headers["authorization"]},
                    proxy=None,
                )
            assert (answer.status_code, refused.value.response.status_code) == (503, 503)
            store.valid_token = valid_token  # type: ignore[method-assign] # it is back
            async with server.agent("late"):
                assert await anext(names) == "event: agent"


async def test_an_open_stream_goes_on_while_its_token_is_good(tmp_path: Path) -> None:
    async with running(tmp_path, recheck_s=0.001) as server:
        asked = asyncio.Event()
        authenticate = server.parts.operators.store.valid_token
        times = 0

        async def counted(sha256: str, at: float) -> ApiToken | None:
            nonlocal times
            times += 1
            if times > 5:
                asked.set()
            return await authenticate(sha256, at)

        server.parts.operators.store.valid_token = counted  # type: ignore[method-assign] # counts, then does it
        async with asyncio.timeout(20), server.http.stream("GET", "/api/v1/events") as stream:
            await asked.wait()
            names = (line async for line in stream.aiter_lines() if line.startswith("event: "))
            assert await anext(names) == "event: current"
            async with server.agent("late"):
                assert await anext(names) == "event: agent"
