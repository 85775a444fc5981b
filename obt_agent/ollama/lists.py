"""Ollama's lists read into ours: ``/api/version``, ``tags``, ``ps`` and what ``show`` adds. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from obt_agent.errors import OllamaError
from obt_agent.ollama import failures
from obt_agent.ollama.payloads import InstalledModel, RunningModel


class _Details(msgspec.Struct):
    format: str | None = None
    family: str | None = None
    families: tuple[str, ...] | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None


class _Tag(msgspec.Struct):
    name: str
    digest: str = ""
    size: int = 0
    modified_at: str | None = None
    details: _Details | None = None
    capabilities: tuple[str, ...] | None = None
    remote_model: str | None = None
    remote_host: str | None = None


class _Loaded(msgspec.Struct):
    name: str
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    expires_at: str | None = None
    details: _Details | None = None


class _Tags(msgspec.Struct):
    models: tuple[_Tag, ...] | None


class _Ps(msgspec.Struct):
    models: tuple[_Loaded, ...] | None


class _VersionAnswer(msgspec.Struct):
    version: str


class _Shown(msgspec.Struct):
    capabilities: tuple[str, ...] = ()
    model_info: dict[str, Any] | None = None


_T = TypeVar("_T")


def read_version(body: bytes) -> str:
    """The text of ``/api/version``; raises ``OllamaError`` for anything else."""
    return _decode(body, _VersionAnswer).version


def read_installed(body: bytes) -> tuple[InstalledModel, ...]:
    """The models of ``/api/tags``, none marked as loaded; raises ``OllamaError`` for anything else."""
    return tuple(_installed(tag) for tag in _decode(body, _Tags).models or ())


def read_running(body: bytes) -> tuple[RunningModel, ...]:
    """The models of ``/api/ps``; raises ``OllamaError`` for anything else."""
    return tuple(_running(model) for model in _decode(body, _Ps).models or ())


def read_shown(body: bytes) -> tuple[tuple[str, ...], int | None]:
    """Capabilities and context length out of ``/api/show``; raises ``OllamaError`` for anything else."""
    shown = _decode(body, _Shown)
    info = shown.model_info or {}
    length = info.get(f"{info.get('general.architecture')}.context_length")
    return shown.capabilities, length if type(length) is int else None  # True is an int, and no length


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _strange(error) from error


def _strange(error: Exception) -> OllamaError:
    return failures.not_ollama(f"sends a list of another form ({error})", 200)


def _installed(tag: _Tag) -> InstalledModel:
    details = tag.details or _Details()
    return InstalledModel(
        name=tag.name,
        digest=tag.digest,
        size_bytes=tag.size,
        modified_at=tag.modified_at,
        format=details.format or None,
        family=details.family or None,
        families=details.families or (),
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
        context_length=details.context_length,
        embedding_length=details.embedding_length,
        capabilities=tag.capabilities or (),
        remote_model=tag.remote_model or None,
        remote_host=tag.remote_host or None,
    )


def _running(model: _Loaded) -> RunningModel:
    details = model.details or _Details()
    return RunningModel(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size,
        size_vram_bytes=model.size_vram,
        context_length=model.context_length,
        expires_at=model.expires_at,
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
    )
