"""OBT's own clients, as its ``ollama_clients`` holds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

ObtClients = Mapping[str, Mapping[str, Any]]
"""OBT's ``ollama_clients``: by id, what the last registration and heartbeat said."""

CLIENT_TIMEOUT_S: Final = 15.0
"""Three heartbeats of OBT's, after which it takes a client for gone."""
MAX_MISSED: Final = 3


def healthy(clients: ObtClients, now: datetime) -> dict[str, Mapping[str, Any]]:
    """Return those that OBT takes for healthy: their Ollama answers, and they were heard in time."""
    return {
        client_id: client
        for client_id, client in clients.items()
        if client.get("available")
        and client.get("missed_heartbeats", 0) < MAX_MISSED
        and _age_s(client, now) < CLIENT_TIMEOUT_S
    }


def as_listed(client_id: str, client: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a client as ``/models/clients`` lists it, with the models and figures that the page reads."""
    hardware: Mapping[str, Any] = client.get("hardware") or {}
    gpus = hardware.get("gpus") or [{}]
    flat = {
        "cpu_threads": (hardware.get("cpu") or {}).get("threads", 0),
        "gpu_count": len(hardware.get("gpus") or ()),
        "gpu_name": gpus[0].get("name"),
        "gpu_memory": gpus[0].get("vram_size"),
    }
    models = client.get("models", [])
    return {
        "id": client_id,
        "name": client_id,
        "version": client.get("version", "unknown"),
        "available": True,
        "model_count": len(models),
        "models": models,
        "hardware": {**flat, **hardware},
        "last_heartbeat": _age_s(client, now),
        "missed_heartbeats": client.get("missed_heartbeats", 0),
    }


def _age_s(client: Mapping[str, Any], now: datetime) -> float:
    # OBT's times are local and without a zone, as ``datetime.now()`` gives them.
    heard = client.get("last_heartbeat")
    return (now - heard).total_seconds() if isinstance(heard, datetime) else float("inf")
