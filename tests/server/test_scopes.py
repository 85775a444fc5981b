"""Every route with every kind of secret: it opens to those that OpenAPI names, and to no other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from obt_server.auth import secrets
from obt_server.auth.operators import COOKIE
from obt_server.gateway import GatewaySettings
from obt_server.store.operators import Scope
from tests.server.agent_double import uuid7
from tests.server.conftest import NO_AUTHORITIES, PASSWORD, Running, running

OPENED_BY: dict[str, frozenset[str]] = {
    "operator": frozenset({"apiToken"}),
    "inference": frozenset({"inferenceToken"}),
    "metrics": frozenset({"metricsToken"}),
    "cookie": frozenset({"signIn"}),
    "join token": frozenset({"joinToken"}),
    "agent's credential": frozenset(),
    "revoked operator": frozenset(),
    "expired inference": frozenset(),
    "nothing": frozenset(),
}
"""By kind of secret, the schemes of OpenAPI's ``security`` that it satisfies."""
PUBLIC = {("post", "/api/v1/session"), ("get", "/healthz"), ("get", "/readyz")}
"""What checks a password, and asks for nothing before; and what says one word to everybody."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, gateway=GatewaySettings()) as one:
        yield one


def test_each_scope_is_asked_about() -> None:
    assert set(get_args(Scope)) <= set(OPENED_BY)


async def secret_of(server: Running, kind: str) -> dict[str, str]:
    """Headers with a secret of that kind."""
    store = server.parts.operators.store
    if kind == "nothing":
        return {}
    if kind == "cookie":
        signed_in = await server.http.post("/api/v1/session", json={"name": "admin", "password": PASSWORD})
        token = signed_in.cookies[COOKIE]
        server.http.cookies.clear()
        return {"Cookie": f"{COOKIE}={token}"}
    if kind == "join token":
        return bearer((await server.http.post("/api/v1/join-tokens", json={})).json()["secret"])
    if kind == "agent's credential":
        return bearer((await server.enrol())[1])
    state, _, scope = kind.rpartition(" ")
    grant = (["*"], ["*"]) if scope == "inference" else None
    expires_at = 1.0 if state == "expired" else None
    token, made = await server.parts.operators.new_token(
        "admin", "tests", expires_at, scope="metrics" if scope == "metrics" else "operator", grant=grant
    )
    if state == "revoked":
        await store.revoke_token(made.id)
    return bearer(token)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def refused_for_its_secret(answer: httpx.Response, text: str) -> bool:
    """Whether the secret is why; a gateway also answers 403 to changes, whoever asks."""
    return answer.status_code == 401 or (answer.status_code == 403 and "scope" in text)


@pytest.mark.parametrize("kind", OPENED_BY)
async def test_a_route_opens_to_the_secrets_that_openapi_names_and_to_no_other(
    server: Running, kind: str
) -> None:
    document = (await server.http.get("/api/v1/openapi.json")).json()
    headers = await secret_of(server, kind)
    wrong, asked = [], 0
    async with httpx.AsyncClient(
        base_url=server.url, timeout=20, trust_env=False, verify=NO_AUTHORITIES
    ) as client:
        for method, path, operation in operations(document):
            allowed = {name for one in operation.get("security", document["security"]) for name in one}
            opens = (method, path) in PUBLIC or bool(OPENED_BY[kind] & allowed)
            # A stream that opens would be read for ever: its status is enough.
            async with client.stream(
                method, re.sub(r"\{[^}]*\}", "x", path), headers=headers, **body_of(path)
            ) as answer:
                text = "" if answer.status_code == 200 else (await answer.aread()).decode()
            asked += 1
            if refused_for_its_secret(answer, text) == opens:
                wrong.append((method, path, answer.status_code, text[:200]))
    assert wrong == []
    assert asked > 90


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    found = [
        (method, path, one) for path, all_of in document["paths"].items() for method, one in all_of.items()
    ]
    # Signing out ends the cookie with which the others are asked.
    return sorted(found, key=lambda one: (one[0], one[1]) == ("delete", "/api/v1/session"))


def body_of(path: str) -> dict[str, Any]:
    """A body where a route reads it before the secret: enrolment's names whom the join token is for."""
    if not path.endswith("/agents/enroll"):
        return {}
    agent = {"id": uuid7(), "name": "box", "version": "1"}
    return {"json": {"agent": agent, "secret_sha256": secrets.sha256("mine")}}
