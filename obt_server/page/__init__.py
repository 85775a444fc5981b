"""The first page: static files, served as they are. Nothing in them is secret; figures come by the API."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

STATIC: Final = Path(__file__).with_name("static")


def mount(app: FastAPI) -> None:
    """Serve the page at ``/``. Mount it last: it takes what no other route took."""
    app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
