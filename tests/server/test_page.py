"""The page's files: what browsers may keep, what they ask for each time, and that nothing else is served."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx
import pytest
import websockets
from fastapi import APIRouter, Request

from obt_server.auth import Principal
from obt_server.page import StaticPage
from tests.server.conftest import Running


async def fetched(server: Running, path: str, encoding: str = "identity", **headers: str) -> httpx.Response:
    """An answer as a stranger gets it, not decompressed."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        return await client.get(path, headers={"Accept-Encoding": encoding, **headers})


async def test_two_releases_never_mix_in_a_browser(server: Running) -> None:
    index = await fetched(server, "/")
    assert (index.status_code, index.headers["Cache-Control"]) == (200, "no-cache")
    again = await fetched(server, "/", **{"If-None-Match": index.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Cache-Control"] == "no-cache"
    packed = await fetched(server, "/", "br", **{"If-None-Match": index.headers["ETag"]})
    assert packed.status_code == 304
    other = await fetched(server, "/", **{"If-None-Match": '"another", W/"one"'})
    assert other.status_code == 200
    names = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', index.text)
    assert names
    for name in names:
        assert re.search(r"\.[\w-]{8,}\.(js|css)$", name), "the name holds a hash of the content"
        asset = await fetched(server, f"/{name}")
        assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_a_release_of_the_same_time_and_size_has_another_tag(tmp_path: Path) -> None:
    tags = []
    for text in ("one", "two"):
        file = tmp_path / "index.html"
        file.write_text(text)
        os.utime(file, (315532800, 315532800))  # as in a wheel that is built to be reproducible
        transport = httpx.ASGITransport(app=StaticPage(tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://page.test") as client:
            tags.append((await client.get("/")).headers["ETag"])
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("accepted", "sent"),
    [("br, gzip", "br"), ("gzip", "gzip"), ("identity", None), ("br;q=0, gzip", "gzip")],
)
async def test_a_file_is_sent_packed_as_the_browser_takes_it(
    server: Running, accepted: str, sent: str | None
) -> None:
    answer = await fetched(server, "/", accepted)
    assert answer.headers.get("Content-Encoding") == sent
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/nothing", "/../__init__.py", "/%2e%2e/__init__.py", "/index.html.br"])
async def test_nothing_but_the_pages_files_is_served(server: Running, path: str) -> None:
    assert (await fetched(server, path)).status_code == 404


async def test_routes_that_are_added_to_a_built_application_are_reached(server: Running) -> None:
    context, own = server.parts.context, APIRouter(prefix="/own")

    @own.get("/thing")
    async def thing(request: Request) -> dict[str, str]:
        passed = await context.gate(request)
        return {"who": passed.name if isinstance(passed, Principal) else "nobody"}

    server.parts.app.include_router(own)
    assert (await server.http.get("/own/thing")).json() == {"who": "admin"}
    assert (await fetched(server, "/own/thing")).json() == {"who": "nobody"}
    # The application's guards stand before them.
    assert (await fetched(server, "/own/thing", Host="evil.example")).status_code == 421
    assert (await fetched(server, "/own/thing")).headers["X-Content-Type-Options"] == "nosniff"
    assert (await server.http.post("/own/thing")).status_code == 405
    assert (await fetched(server, "/own/other")).json()["error"]["kind"] == "not_found"


async def test_a_websocket_to_no_route_is_refused(server: Running) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/nothing", proxy=None):
            pass
    assert caught.value.response.status_code == 403


async def test_the_page_is_only_read(server: Running) -> None:
    answer = await server.http.post("/")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
