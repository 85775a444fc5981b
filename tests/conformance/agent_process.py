"""A real agent as a process of its own, with a credential from a file, dialling where it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

WITHIN_S = 60.0


class Agent:
    """One running agent."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def redial(self) -> None:
        """Dial at once, as its owner makes it."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGHUP)


@contextlib.asynccontextmanager
async def running_agent(
    folder: Path,
    url: str,
    ollama_url: str,
    *,
    module: str = "tests.conformance.short_agent",
    token: str | None = "conformance-secret",
    env: dict[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[Agent]:
    """``obt-agent run`` against a server at ``url``; stopped on leaving.

    Without ``token`` it comes with what it enrolled with.
    """
    credential = {}
    if token is not None:
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        credential["token_file"] = str(folder / "token")
    config = {
        "server": {"url": url, **credential, **sections.pop("server", {})},
        "ollama": {"url": ollama_url, "poll_interval_s": 0.2},
        "agent": {"name": "agent-under-test", "state_dir": str(folder / "state")},
        "policy": {"rate_limit": None, **sections.pop("policy", {})},
        **sections,
    }
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "run", "--config", str(folder / "agent.yaml")),
            *("--log-format", "console"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=usual | (env or {}),
        )
    agent = Agent(process, folder)
    try:
        yield agent
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(WITHIN_S):
            await process.wait()
