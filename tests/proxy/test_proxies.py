"""The configurations in deploy/proxy, each with the proxy that it is for, in front of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from obt_server.auth import secrets
from obt_server.store import Database, OperatorStore
from tests.proxy.programs import (
    NAME,
    PROXIES,
    Command,
    Place,
    Proxy,
    apache,
    caddy,
    listening,
    nginx,
    place_in,
)
from tests.server.agent_double import AgentDouble, dial, never, uuid7
from tests.server.conftest import HASHED, PASSWORD
from tests.server.process import server_process

pytestmark = pytest.mark.timeout(600)  # whole programs, on a machine that may be busy


def by_nginx(place: Place) -> list[str]:
    return nginx(place, place.site("nginx.conf"))


def by_nginx_under_a_path(place: Place) -> list[str]:
    head = f"listen {place.port} ssl; ssl_certificate {place.certificate}; ssl_certificate_key {place.key};"
    return nginx(place, f"server {{ {head}\n{place.site('nginx-path.conf')}\n}}")


def by_nginx_that_leaves_the_path(place: Place) -> list[str]:
    command = by_nginx_under_a_path(place)
    config = place.folder / "nginx.conf"
    (upstream,) = place.servers
    config.write_text(
        config.read_text().replace(f"http://127.0.0.1:{upstream}/;", f"http://127.0.0.1:{upstream};")
    )
    return command


def by_apache(place: Place) -> list[str]:
    return apache(place, place.site("apache.conf"))


def by_caddy(place: Place) -> list[str]:
    return caddy(place, place.site("Caddyfile"))


@contextlib.asynccontextmanager
async def proxied(folder: Path, command: Command, *arguments: str, path: str = "") -> AsyncIterator[Proxy]:
    """A server as a process, and the proxy before it."""
    database = Database.sqlite(folder / "obt.sqlite3")
    await OperatorStore(database).set_password("admin", HASHED, 0.0)
    database.close()
    names = ("--behind-proxy", "--allowed-host", NAME)
    async with (
        server_process(folder / "obt.sqlite3", *names, *arguments) as server,
        listening(command, place_in(folder, server.port), path) as proxy,
    ):
        yield proxy


async def sign_in(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    body = {"name": "admin", "password": PASSWORD}
    return await client.post("api/v1/session", json=body, headers={"Origin": origin})


async def works(proxy: Proxy, path: str = "/") -> None:
    """A browser signs in, reads events as they come; an agent enrols, dials and answers a command."""
    origin = proxy.url.removesuffix(path.rstrip("/"))
    async with proxy.client() as client:
        page = (await client.get("")).text
        assert "<title>OBT</title>" in page
        script = re.search(r'src="\./(assets/[^"]+\.js)"', page)
        assert script is not None
        assert (await client.get(script[1])).status_code == 200
        answer = await sign_in(client, origin)
        assert answer.status_code == 200, answer.text
        cookie = answer.headers["set-cookie"]
        assert f"Path={path}" in cookie, cookie
        assert "Secure" in cookie, cookie
        made = (await client.post("api/v1/join-tokens", json={})).json()
        agent_id, secret = uuid7(), secrets.new_secret("test")
        agent = {"id": agent_id, "name": "box", "version": "1"}
        enrolled = await client.post(
            "api/v1/agents/enroll",
            headers={"Authorization": f"Bearer {made['secret']}"},
            json={"agent": agent, "secret_sha256": secrets.sha256(secret)},
        )
        assert enrolled.status_code == 200, enrolled.text
        async with (
            client.stream("GET", "api/v1/events") as events,
            dial(proxy.url, secret, agent_id, tls=proxy.tls) as double,
        ):
            await double.hello()
            async with asyncio.timeout(30):
                async for line in events.aiter_lines():
                    if line.startswith("data:") and '"presence":"online"' in line:
                        break
            await ends_what_nobody_waits_for(client, double)


async def ends_what_nobody_waits_for(client: httpx.AsyncClient, agent: AgentDouble) -> None:
    """A caller leaves before a model's answer began: the server is told, and the agent stops."""
    agent.handlers["generate"] = never
    url = f"api/v1/agents/{agent.agent_id}/commands/generate"
    call = asyncio.create_task(client.post(url, json={"model": "m", "prompt": "p"}), name="a caller")
    await agent.until(lambda: [one.method for one in agent.requests][-1:] == ["generate"])
    call.cancel()
    await asyncio.wait([call])
    await agent.until(lambda: agent.requests[-1].method == "cancel")


@pytest.mark.parametrize("command", [by_nginx, by_apache, by_caddy])
async def test_page_events_and_agents_work_behind_the_proxy(tmp_path: Path, command: Command) -> None:
    async with proxied(tmp_path, command) as proxy:
        await works(proxy)


@pytest.mark.parametrize("command", [by_nginx_under_a_path, by_nginx_that_leaves_the_path])
async def test_they_work_under_a_path_of_another_site(tmp_path: Path, command: Command) -> None:
    async with proxied(tmp_path, command, "--root-path", "/obt", path="/obt") as proxy:
        await works(proxy, "/obt/")
        async with proxy.client() as client:
            assert (await client.get(proxy.url, follow_redirects=True)).url.path == "/obt/"


def bare(place: Place) -> list[str]:
    """Nginx as it is without any of the settings: what most people start with."""
    head = f"listen {place.port} ssl; ssl_certificate {place.certificate}; ssl_certificate_key {place.key};"
    (upstream,) = place.servers
    target = f"proxy_pass http://127.0.0.1:{upstream}; proxy_set_header X-Forwarded-For $remote_addr;"
    return nginx(place, f"server {{ {head} location / {{ {target} }} }}")


async def test_a_proxy_without_its_settings_is_named_as_the_cause(tmp_path: Path) -> None:
    async with proxied(tmp_path, bare) as proxy, proxy.client() as client:
        refused = await sign_in(client, proxy.url)
        assert refused.status_code == 403
        assert "proxy_set_header Host" in refused.json()["error"]["message"]
        upgrade = await client.get("api/v1/agents/connect")
        assert upgrade.status_code == 426
        assert "Upgrade" in upgrade.json()["error"]["message"]


def test_traefiks_file_routes_to_the_server_and_keeps_the_host() -> None:
    http = yaml.safe_load((PROXIES / "traefik.yaml").read_text())["http"]
    balancer = http["services"][http["routers"]["obt"]["service"]]["loadBalancer"]
    assert balancer["passHostHeader"] is True
    assert balancer["servers"] == [{"url": "http://127.0.0.1:8881"}]
