"""Ollama's lists read into ours: ``/api/version``, ``tags``, ``ps`` and what ``show`` adds. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

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


# As Ollama writes them. Everything has a default: servers that imitate Ollama leave much out.
class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    modified_at: str | None = None
    details: _Details | None = None
    capabilities: tuple[str, ...] | None = None
    remote_model: str | None = None
    remote_host: str | None = None


class _LoadedEntry(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    expires_at: str | None = None
    details: _Details | None = None


class _ModelListing(msgspec.Struct):
    # Each entry is read by itself, so that an odd one costs itself and not the whole list.
    models: tuple[msgspec.Raw, ...] | None


class _VersionAnswer(msgspec.Struct):
    version: str


class _ShowAnswer(msgspec.Struct):
    capabilities: tuple[str, ...] = ()
    model_info: dict[str, Any] | None = None
    modelfile: str | None = None


MAX_COUNT: Final = 1 << 53
"""Larger integers have no exact float, and no model has so many bytes."""

# A line that names a file of weights, in the Modelfile that Ollama writes for a model.
_WEIGHTS: Final = re.compile(r"^(?:FROM|ADAPTER|DRAFT)[ \t]+\S*sha256[-:]([0-9a-f]{64})$", re.MULTILINE)

_Entry = TypeVar("_Entry", _Tag, _LoadedEntry)
_T = TypeVar("_T")


class InstalledList(NamedTuple):
    """The installed models, and why entries of the list could not be read."""

    models: tuple[InstalledModel, ...]
    problems: tuple[str, ...] = ()


class RunningList(NamedTuple):
    """The loaded models, and why entries of the list could not be read."""

    models: tuple[RunningModel, ...]
    problems: tuple[str, ...] = ()


def read_version(body: bytes) -> str:
    """The text of ``/api/version``; raises ``OllamaError`` for anything else."""
    return _decode(body, _VersionAnswer).version


def read_installed(body: bytes) -> InstalledList:
    """The models of ``/api/tags``, none marked as loaded; raises ``OllamaError`` where there is no list."""
    tags, problems = _entries(body, _Tag, "/api/tags")
    return InstalledList(tuple(map(_installed, tags)), problems)


def read_running(body: bytes) -> RunningList:
    """The models of ``/api/ps``; raises ``OllamaError`` where there is no list."""
    loaded, problems = _entries(body, _LoadedEntry, "/api/ps")
    return RunningList(tuple(map(_running, loaded)), problems)


def _entries(body: bytes, shape: type[_Entry], path: str) -> tuple[list[_Entry], tuple[str, ...]]:
    found: list[_Entry] = []
    problems: list[str] = []
    for number, raw in enumerate(_decode(body, _ModelListing).models or (), start=1):
        try:
            entry = msgspec.json.decode(raw, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problems.append(f"Entry {number} of {path} cannot be read: {error}")
            continue
        entry.name = entry.name or entry.model
        if entry.name:
            found.append(entry)
        else:
            problems.append(f"Entry {number} of {path} has no name.")
    return found, tuple(problems)


def read_shown(body: bytes) -> tuple[tuple[str, ...], int | None]:
    """Capabilities and context length out of ``/api/show``; raises ``OllamaError`` for anything else."""
    shown = _decode(body, _ShowAnswer)
    info = shown.model_info or {}
    # The key is named after the architecture: llama.context_length.
    length = info.get(f"{info.get('general.architecture')}.context_length")
    return shown.capabilities, _count(length) if type(
        length
    ) is int else None  # True is an int, and no length


def read_weights(body: bytes) -> tuple[str, ...]:
    """Digests of the files with a model's weights and adapters, out of ``/api/show``.

    Raises:
        OllamaError: it is no such answer.
    """
    modelfile = _decode(body, _ShowAnswer).modelfile or ""
    return tuple(dict.fromkeys(f"sha256:{digest}" for digest in _WEIGHTS.findall(modelfile)))


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise failures.not_ollama(f"sends a list of another form ({error})", 200) from error


def _count(value: int | None) -> int | None:
    """Return a count that can be one; others cannot be computed with: 10^400 has no float."""
    return value if value is not None and 0 <= value <= MAX_COUNT else None


def _installed(tag: _Tag) -> InstalledModel:
    details = tag.details or _Details()
    return InstalledModel(
        name=tag.name,
        digest=tag.digest,
        size_bytes=_count(tag.size) or 0,
        modified_at=tag.modified_at,
        format=details.format or None,
        family=details.family or None,
        families=details.families or (),
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
        context_length=_count(details.context_length),
        embedding_length=_count(details.embedding_length),
        capabilities=tag.capabilities or (),
        remote_model=tag.remote_model or None,
        remote_host=tag.remote_host or None,
    )


def _running(model: _LoadedEntry) -> RunningModel:
    details = model.details or _Details()
    return RunningModel(
        name=model.name,
        digest=model.digest,
        size_bytes=_count(model.size) or 0,
        size_vram_bytes=_count(model.size_vram) or 0,
        context_length=_count(model.context_length),
        expires_at=model.expires_at,
        parameter_size=details.parameter_size or None,
        quantization_level=details.quantization_level or None,
    )
