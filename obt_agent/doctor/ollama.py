"""Ollama: whether it answers, its version, its models."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from obt_agent.doctor.findings import Finding, failure, ok, warning
from obt_agent.errors import AgentError, OllamaUnavailable
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.settings import OllamaSettings

OLDEST: Final = (0, 5)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


async def look(settings: OllamaSettings) -> AsyncIterator[Finding]:
    """Ask for version and models."""
    async with OllamaClient(settings) as ollama:
        try:
            version = await ollama.version()
            models = await ollama.installed()
        except OllamaUnavailable as error:
            yield failure(
                "ollama.reachable",
                error.message,
                "Start it (systemctl start ollama), or set ollama.url. In a container it must listen on an "
                "address that this machine reaches (OLLAMA_HOST).",
            )
            return
        except AgentError as error:
            yield failure(
                "ollama.answers",
                error.message,
                f"Check that {settings.url} is Ollama, and no proxy before it.",
            )
            return
    yield ok("ollama.reachable", f"version {version} at {settings.url}")
    found = _VERSION.search(version)
    if found and (int(found.group(1)), int(found.group(2))) < OLDEST:
        yield warning("ollama.version", f"{version} is older than what is supported (0.5)", "Update Ollama.")
    if models:
        yield ok("ollama.models", f"{len(models)} installed")
    else:
        yield warning("ollama.models", "none is installed", "ollama pull MODEL")
