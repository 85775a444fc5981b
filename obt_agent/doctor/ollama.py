"""Ollama: whether it answers, its version, its models."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from obt_agent.config.schema import OllamaConfig
from obt_agent.doctor.findings import Finding, failure, ok, warning
from obt_agent.errors import AgentError, OllamaUnavailable
from obt_agent.ollama.client import OllamaClient

OLDEST: Final = (0, 5)
# The version of an Ollama that was built from source without naming one.
_UNVERSIONED: Final = "0.0.0"
# Major and minor; what follows says nothing about what is supported.
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


async def check(settings: OllamaConfig) -> AsyncIterator[Finding]:
    """Ask for version and models."""
    async with OllamaClient(settings) as ollama:
        try:
            version = await ollama.version()
            models, problems = await ollama.installed()
        # Nothing answers: start it. Something else answers: the address is wrong. Two remedies, two checks.
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
    if found and version != _UNVERSIONED and (int(found.group(1)), int(found.group(2))) < OLDEST:
        yield warning("ollama.version", f"{version} is older than what is supported (0.5)", "Update Ollama.")
    for problem in problems:
        yield warning(
            "ollama.entries",
            problem,
            "The agent goes on without it; the server at ollama.url makes this list.",
        )
    if models:
        yield ok("ollama.models", f"{len(models)} installed")
    else:
        yield warning("ollama.models", "none is installed", "ollama pull MODEL")
