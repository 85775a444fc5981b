"""Ollama's lists of models, from what agents say of theirs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_server.auth import InferenceGrant
from obt_server.gateway.grants import covers_model

_NO_TIME = "0001-01-01T00:00:00Z"
"""What Go writes for a time that is not set; clients parse the field."""


def covered(models: Iterable[InstalledModel], grant: InferenceGrant) -> list[InstalledModel]:
    """Return the models that a token is for, each name once."""
    # Of several machines: the first one's entry, as the first machine is asked first.
    found: dict[str, InstalledModel] = {}
    for model in models:
        if model.name not in found and covers_model(grant, model.name):
            found[model.name] = model
    return list(found.values())


def tags(models: Iterable[InstalledModel]) -> dict[str, Any]:
    """Return the answer of ``/api/tags``."""
    return {"models": [_installed(model) for model in models]}


def _installed(model: InstalledModel) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": model.name, "model": model.name}
    if model.remote_model or model.remote_host:
        entry |= {"remote_model": model.remote_model or "", "remote_host": model.remote_host or ""}
    entry |= {
        "modified_at": model.modified_at or _NO_TIME,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model.format, model.family, model.families, model),
    }
    # Older Ollamas say none of these, and neither is invented here.
    for name in ("context_length", "embedding_length"):
        if getattr(model, name) is not None:
            entry["details"][name] = getattr(model, name)
    if model.capabilities:
        entry["capabilities"] = model.capabilities
    return entry


def ps(models: Iterable[RunningModel], installed: Iterable[InstalledModel]) -> dict[str, Any]:
    """Return the answer of ``/api/ps``; what only the list of installed models says is taken from there."""
    known = {model.name: model for model in installed}
    return {"models": [_running(model, known.get(model.name)) for model in models]}


def _running(model: RunningModel, known: InstalledModel | None) -> dict[str, Any]:
    found = (known.format, known.family, known.families) if known is not None else (None, None, ())
    entry = {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(*found, model),
        "expires_at": model.expires_at or _NO_TIME,
        "size_vram": model.size_vram_bytes,
    }
    return entry if model.context_length is None else entry | {"context_length": model.context_length}


def _details(
    kind: str | None, family: str | None, families: tuple[str, ...], model: InstalledModel | RunningModel
) -> dict[str, Any]:
    return {
        # A name or a path of the host: agents do not say it.
        "parent_model": "",
        "format": kind or "",
        "family": family or "",
        "families": families or None,
        "parameter_size": model.parameter_size or "",
        "quantization_level": model.quantization_level or "",
    }
