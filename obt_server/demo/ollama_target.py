"""Which Ollama the demonstration drives: the one that answers, else a stand-in that says that it is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from obt_agent.config.schema import OllamaConfig
from obt_agent.config.urls import WrongUrl, ollama_base, without_userinfo
from obt_server.demo.processes import Child, ChildFailed, running

# An Ollama answers this at once, even while it generates.
ANSWERS_WITHIN_S: Final = 3.0
# For the stand-in to print its address.
STARTS_WITHIN_S: Final = 20.0
# A believable machine: a small model at 45 tokens/s, with load time, prefill and jitter.
SCRIPT: Final = Path(__file__).with_name("standin.json")


@dataclass(frozen=True)
class OllamaTarget:
    """The Ollama that is driven. ``standin``: no figure of it says anything of a real model.

    ``silent`` is the address at which an Ollama was looked for in vain.
    """

    url: str
    version: str
    standin: bool
    silent: str = ""


@contextlib.asynccontextmanager
async def ollama_target(folder: Path) -> AsyncIterator[OllamaTarget]:
    """The Ollama at ``OLLAMA_URL`` if it answers, else a stand-in for as long as the context lasts.

    Raises:
        ChildFailed: ``OLLAMA_URL`` is no address, or the stand-in did not come up.
    """
    url = wanted(os.environ.get("OLLAMA_URL") or OllamaConfig().url)
    version = await answering(url)
    if version is not None:
        # A stand-in that somebody started by hand must not pass for an Ollama either.
        yield OllamaTarget(url, version, standin=version.endswith("standin"))
        return
    async with standins(folder, [SCRIPT]) as (standin_url,):
        found = await answering(standin_url)
        if found is None:
            raise ChildFailed("The stand-in for Ollama does not answer.")
        yield OllamaTarget(standin_url, found, standin=True, silent=url)


@contextlib.asynccontextmanager
async def standins(folder: Path, scripts: Sequence[Path]) -> AsyncIterator[list[str]]:
    """Run stand-ins for Ollama, one for each script, in one process; give their addresses.

    Raises:
        ChildFailed: the process did not come up.
    """
    command = [sys.executable, "-m", "obt_standin", "--port", "0"]
    for script in scripts:
        command += ["--script", str(script)]
    async with running("The stand-in for Ollama", command, folder / "standin.log") as child:
        yield await _addresses(child, len(scripts))


def wanted(text: str) -> str:
    """The address that was asked for, in any form that the agent takes. Raises ChildFailed."""
    try:
        return ollama_base(text)
    except WrongUrl as error:
        raise ChildFailed(f"OLLAMA_URL is {without_userinfo(text)!r}, which {error}.") from error


async def answering(url: str) -> str | None:
    """The version of the Ollama at an address; None when nothing that speaks its language answers."""
    timeout = aiohttp.ClientTimeout(total=ANSWERS_WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            # A redirect is an answer of something else, such as a router's page.
            http.get(url.rstrip("/") + "/api/version", allow_redirects=False) as response,
        ):
            version = (await response.json())["version"]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) else None


async def _addresses(child: Child, count: int) -> list[str]:
    """The URLs that the stand-ins print, each as a line of JSON."""
    async with asyncio.timeout(STARTS_WITHIN_S):
        while True:
            child.check()
            # What follows the last newline may be half written, and an error is no address.
            written = child.log.read_text().split("\n")[:-1]
            lines = [line for line in written if line.startswith("{")]
            if len(lines) >= count:
                return [str(json.loads(line)["url"]) for line in lines[:count]]
            await asyncio.sleep(0.05)
