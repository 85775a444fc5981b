"""The page: built files, served as they are. Nothing in them is secret; figures come by the API."""

from __future__ import annotations

import hashlib
from mimetypes import guess_type
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

STATIC: Final = Path(__file__).with_name("static")
IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""For files whose names hold a hash of their content: a new release has new names."""
REVALIDATE: Final = "no-cache"
"""For the rest: a browser asks each time, and gets 304 while nothing changed."""
ENCODINGS: Final = (("br", ".br"), ("gzip", ".gz"))
"""Compressed copies beside each file, the smallest first."""


class StaticPage:
    """Serves the files below a folder.

    Args:
        folder: what ``npm run build`` wrote, with its compressed copies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        # Looked up once: what is not listed here is not served, whatever a path holds.
        self._files = {
            path.relative_to(self._folder).as_posix(): path
            for path in self._folder.rglob("*")
            if path.is_file() and path.suffix not in {".br", ".gz"}
        }
        # Of the content: a reproducible release has the time, and often the size, of the one before.
        self._tags = {
            name: f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
            for name, path in self._files.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET and HEAD of the page's files.

        Raises:
            HTTPException: 404, there is no such file; 405, another method.
        """
        response = self._answer(scope)
        await response(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        # Mounted at a path of another site, the page is relative to a folder: its address ends in a slash.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "":
            return RedirectResponse(scope["path"] + "/")
        name = path.lstrip("/") or "index.html"
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404, "Not Found")
        headers = {
            "Cache-Control": IMMUTABLE if name.startswith("assets/") else REVALIDATE,
            # A cache between must not give Brotli to a browser that cannot read it.
            "Vary": "Accept-Encoding",
            # Weak: the compressed copies are the same file in other bytes.
            "ETag": f"W/{self._tags[name]}",
        }
        known = Headers(scope=scope).get("If-None-Match", "")
        if self._tags[name] in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
            return Response(status_code=304, headers=headers)
        # Packed when the page was built: compressing at each request would cost more than sending.
        accepted = _accepted(scope)
        for encoding, suffix in ENCODINGS:
            packed = file.with_name(file.name + suffix)
            if encoding in accepted and packed.is_file():
                file = packed
                headers["Content-Encoding"] = encoding
                break
        return FileResponse(
            file, headers=headers, media_type=guess_type(name)[0] or "application/octet-stream"
        )


def _accepted(scope: Scope) -> set[str]:
    """The encodings that the browser takes; one with ``q=0`` is refused."""
    values = [value.decode("latin-1") for key, value in scope["headers"] if key == b"accept-encoding"]
    parts = [part.strip().split(";") for part in ",".join(values).split(",")]
    return {part[0].strip() for part in parts if not any(one.strip() == "q=0" for one in part[1:])}


def mount(app: FastAPI) -> None:
    """Serve the page at ``/``: it takes what no route takes, those included that are added later."""
    page, not_found = StaticPage(STATIC), app.router.default

    async def page_or_nothing(scope: Scope, receive: Receive, send: Send) -> None:
        # A WebSocket has no file to get: it is refused as everywhere.
        await (page if scope["type"] == "http" else not_found)(scope, receive, send)

    # What the router calls last. A mount at "/" would match before every route that is added after it.
    app.router.default = page_or_nothing
