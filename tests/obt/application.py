"""An application of OBT's shape, written after its public interface: clients in memory, lists, a WebSocket.

Only what a page asks for is there. Its answers to generation name it, so that a test sees who answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, HTTPException, WebSocket
from fastapi.middleware.cors import CORSMiddleware

from tests.obt.fields import AcceptedHardware, AcceptedModel

PAGE = "http://localhost:5173"
PREFIX = "/api/v1"


@dataclass
class OwnPrompt:
    """A prompt file."""

    id: str
    name: str
    content: str


PROMPTS = [OwnPrompt("haiku", "haiku.md", "Write a haiku."), OwnPrompt("sort", "sort.md", "Sort a list.")]


async def available_prompts() -> list[OwnPrompt]:
    return PROMPTS


@dataclass
class ObtShape:
    """The application, and what it holds in memory."""

    app: FastAPI
    clients: dict[str, dict[str, Any]]
    prompts: Callable[[], Awaitable[list[OwnPrompt]]] = available_prompts


def obt_shape() -> ObtShape:
    """Return an application to which nothing was added yet."""
    app = FastAPI()
    app.add_middleware(
        CORSMiddleware, allow_origins=[PAGE], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )
    clients: dict[str, dict[str, Any]] = {}
    app.include_router(_models(clients), prefix=f"{PREFIX}/models")
    app.include_router(_hardware(clients), prefix=f"{PREFIX}/hardware")

    @app.get(f"{PREFIX}/prompts/test-suites")
    async def suites() -> list[dict[str, Any]]:
        return [{"name": "default", "prompts": PROMPTS}]

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"name": "an application of OBT's shape"}

    return ObtShape(app, clients)


def _models(clients: dict[str, dict[str, Any]]) -> APIRouter:
    router = APIRouter()

    @router.post("/register")
    async def register(
        client_id: str, version: str, hardware: Annotated[AcceptedHardware, Body(embed=True)]
    ) -> Any:
        clients[client_id] = {
            "version": version,
            "last_heartbeat": datetime.now(),  # noqa: DTZ005 - as OBT has it
            "models": [],
            "available": False,
            "hardware": hardware.model_dump(),
            "missed_heartbeats": 0,
        }
        return {"status": "success", "registration_id": "r"}

    @router.post("/heartbeat")
    async def heartbeat(
        client_id: str,
        version: str,
        *,
        available: bool,
        models: Annotated[list[AcceptedModel], Body(embed=True)],
    ) -> Any:
        now = datetime.now()  # noqa: DTZ005 - as OBT has it
        # A client that is not known is taken all the same, without hardware.
        known = clients.setdefault(client_id, {"hardware": {}, "missed_heartbeats": 0})
        known |= {"version": version, "available": available, "last_heartbeat": now, "models": models}
        return {"status": "success"}

    @router.get("/", response_model=list[AcceptedModel])
    async def listed(client_id: str) -> Any:
        if not clients.get(client_id, {}).get("available"):
            raise HTTPException(404, f"Client {client_id} not found or not healthy")
        return clients[client_id]["models"]

    @router.get("/clients")
    async def every() -> Any:
        return [{"id": client_id, "available": one["available"]} for client_id, one in clients.items()]

    @router.websocket("/generate/{model}")
    async def generate(websocket: WebSocket, model: str, client_id: str) -> None:
        await websocket.accept()
        await websocket.receive_json()
        await websocket.send_json({"response": f"OBT itself: {model} of {client_id}", "done": True})

    return router


def _hardware(clients: dict[str, dict[str, Any]]) -> APIRouter:
    router = APIRouter()

    @router.get("/", response_model=dict[str, AcceptedHardware])
    async def hardware() -> Any:
        return {client_id: one["hardware"] for client_id, one in clients.items() if one["available"]}

    @router.get("/gpu")
    async def gpus() -> list[Any]:
        return []

    return router
