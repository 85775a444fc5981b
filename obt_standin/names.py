"""Model names as Ollama reads and shows them."""

from __future__ import annotations

import re

_FULL = re.compile(
    r"(?:(?P<host>[\w.:-]+)/)?(?:(?P<namespace>[\w-]+)/)?(?P<model>[\w.-]+)(?::(?P<tag>[\w.-]+))?", re.ASCII
)


def display(name: str) -> str | None:
    """The name as lists show it, in lower case and with its tag; None when it is no name.

    The default registry and namespace are left out.
    """
    # Ollama takes names with a scheme, and forgets it.
    bare = re.sub(r"^\w+://", "", name).lower()
    found = _FULL.fullmatch(bare)
    if found is None or not bare[0].isalnum():
        return None
    host, namespace, model = found["host"], found["namespace"], found["model"]
    # One part before the model is its namespace, whatever it looks like.
    if host is not None and namespace is None:
        host, namespace = None, host
    place = "/".join(part for part in (host, namespace) if part)
    place = re.sub(r"^(registry\.ollama\.ai/)?library$|^registry\.ollama\.ai/", "", place)
    return f"{place}{'/' if place else ''}{model}:{found['tag'] or 'latest'}"


def qualified(name: str) -> str:
    """The name in full, as some errors show it."""
    return f"registry.ollama.ai/library/{name}" if "/" not in name else name


def is_cloud(name: str) -> bool:
    """Whether a name asks for a model that runs elsewhere."""
    return name.endswith((":cloud", "-cloud"))
