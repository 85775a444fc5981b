"""A server with its gateway, a token of scope inference, and a real agent at a stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from obt_server.gateway import GatewaySettings
from obt_standin import StandIn
from tests.gateway.agent import real_agent
from tests.server.conftest import NO_AUTHORITIES, Running, running

MODEL = "standin-small:latest"
THINKS = "standin-think:8b"
EMBEDS = "standin-embed:latest"


async def token(server: Running, machines: tuple[str, ...] = ("*",), models: tuple[str, ...] = ("*",)) -> str:
    """The secret of a new token of scope inference."""
    body = {"name": "client", "scope": "inference", "machines": list(machines), "models": list(models)}
    answer = await server.http.post("/api/v1/api-tokens", json=body)
    assert answer.status_code == 201, answer.text
    secret: str = answer.json()["secret"]
    return secret


@contextlib.asynccontextmanager
async def client(
    server: Running,
    machine: str = "box",
    *,
    machines: tuple[str, ...] = ("*",),
    models: tuple[str, ...] = ("*",),
) -> AsyncIterator[httpx.AsyncClient]:
    """A program that knows a base URL and a token."""
    secret = await token(server, machines, models)
    async with httpx.AsyncClient(
        base_url=f"{server.url}/ollama/{machine}",
        headers={"Authorization": f"Bearer {secret}"},
        timeout=20,
        trust_env=False,
        verify=NO_AUTHORITIES,
    ) as made:
        yield made


@dataclass
class Here:
    """What a test drives."""

    server: Running
    standin: StandIn
    http: httpx.AsyncClient

    def asked(self, path: str) -> list[Any]:
        """The exchanges that reached Ollama at a path."""
        return [exchange for exchange in self.standin.requests if exchange.path == path]


@pytest.fixture
async def gateway_server(tmp_path: Path) -> AsyncIterator[Running]:
    """A server with its gateway; no agent yet."""
    async with running(tmp_path / "server", gateway=GatewaySettings(), recheck_s=0.1) as one:
        yield one


@pytest.fixture
async def here(gateway_server: Running, standin: StandIn, tmp_path: Path) -> AsyncIterator[Here]:
    """One machine called box, and a client of it."""
    async with (
        real_agent(gateway_server, tmp_path / "agent", standin.url),
        client(gateway_server) as http,
    ):
        yield Here(gateway_server, standin, http)
