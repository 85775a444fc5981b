"""Each proxy before several servers, with its configuration in deploy/proxy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.proxy.programs import Command, Place, Proxy, caddy, haproxy, listening, nginx, place_in
from tests.proxy.replicas import Replicas
from tests.waiting import until

RUN = 40
"""Requests in a row, of which three replicas get a third each: by turns, or by chance."""


def by_haproxy(place: Place) -> list[str]:
    text = place.site("haproxy.cfg")
    if place.under_a_path:
        # each line with /obt instead of the one above it, as the file says
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("    #") and "/obt" in line:
                lines[-1] = line.replace("#", "", 1)
            else:
                lines.append(line)
        text = "".join(f"{line}\n" for line in lines)
    return haproxy(place, text)


def by_nginx(place: Place) -> list[str]:
    text = place.site("nginx-replicas.conf")
    if place.under_a_path:
        text = text.replace("location = /api", "location = /obt/api").replace(
            "location / {", "location /obt/ {"
        )
        text = text.replace('X-Forwarded-Prefix ""', "X-Forwarded-Prefix /obt")
    return nginx(place, text)


def by_caddy(place: Place) -> list[str]:
    text = place.site("Caddyfile-replicas")
    if place.under_a_path:
        text = text.replace("\thandle {", "\thandle /obt* {")
        text = text.replace("header_up -X-Forwarded-Prefix", "header_up X-Forwarded-Prefix /obt")
    return caddy(place, text)


@contextlib.asynccontextmanager
async def behind(folder: Path, command: Command, replicas: Replicas, path: str = "") -> AsyncIterator[Proxy]:
    """The proxy, at a path of its site where one is given."""
    place = place_in(folder, *replicas.ports, under_a_path=bool(path))
    async with listening(command, place, path) as proxy, proxy.client() as client:
        # Its own checks of them come first.
        await until(lambda: _answers(client))
        yield proxy


async def _answers(client: httpx.AsyncClient) -> bool:
    return (await client.get("healthz")).status_code == httpx.codes.OK


async def avoided(client: httpx.AsyncClient, replicas: Replicas, number: int) -> bool:
    """Whether none of a run of requests reaches that replica."""
    before = replicas.all[number].changed()
    for _ in range(RUN):
        assert (await client.post("api/v1/join-tokens", json={})).status_code == httpx.codes.CREATED
    return replicas.all[number].changed() == before
