"""Names of models as Ollama reads them: ``[host/][namespace/]model[:tag]``, case ignored. Pure.

A policy that matches names must match what Ollama would open: ``Llama3``, ``llama3:latest`` and
``registry.ollama.ai/library/llama3`` are one model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from obt_agent.errors import InvalidParams

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"
MAX_NAME_CHARS: Final = 512

# As Ollama's types/model/name.go checks each part.
_SCHEME: Final = re.compile(r"^[a-z][a-z0-9+.-]*://")
_HOST: Final = re.compile(r"[a-z0-9_][a-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}")
_MODEL: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_TAG: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")


@dataclass(frozen=True, order=True)
class CanonicalName:
    """A model's name with every part filled in, in lower case."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest name that means the same model, its tag always written: ``llama3:latest``."""
        tagged = f"{self.model}:{self.tag}"
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{tagged}"
        return tagged if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{tagged}"


def canonical(name: str) -> CanonicalName:
    """Read a name as Ollama does: fill in registry, namespace and tag, ignore case and a URL's scheme.

    Raises:
        InvalidParams: Ollama has no such names.
    """
    if len(name) > MAX_NAME_CHARS or not name.isascii():
        raise _invalid(name)
    # The order of types.model.ParseNameBare: the tag is what follows the last colon after the last slash.
    rest = name.lower()
    slash, colon = rest.rfind("/"), rest.rfind(":")
    rest, tag = (rest[:colon], rest[colon + 1 :]) if colon > slash else (rest, DEFAULT_TAG)
    *place, model = rest.rsplit("/", 2)
    namespace = place.pop() if place else DEFAULT_NAMESPACE
    host = _SCHEME.sub("", place.pop()) if place else DEFAULT_HOST
    found = CanonicalName(host, namespace, model, tag)
    if not _valid(found):
        raise _invalid(name)
    return found


def same_model(one: str, other: str) -> bool:
    """Return whether Ollama takes both for one model; what is no name is no model."""
    try:
        return canonical(one) == canonical(other)
    except InvalidParams:
        return False


def _valid(name: CanonicalName) -> bool:
    return bool(
        _HOST.fullmatch(name.host)
        and _NAMESPACE.fullmatch(name.namespace)
        and _MODEL.fullmatch(name.model)
        and _TAG.fullmatch(name.tag)
    )


def _invalid(name: str) -> InvalidParams:
    return InvalidParams(
        f"{name[:100]!r} is no model name: write model, model:tag, namespace/model:tag or "
        "host/namespace/model:tag, in letters, digits, '.', '_' and '-'."
    )
