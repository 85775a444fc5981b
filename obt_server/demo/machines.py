"""The machines of the demonstration: each enrolled as a new user does it, and run as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from obt_agent.config.keys import SHORT_NAMES
from obt_server.client import Client
from obt_server.demo.processes import running

# For an enrolment to end.
ENROLLED_WITHIN_S: Final = 30.0


@contextlib.asynccontextmanager
async def machine(
    folder: Path,
    client: Client,
    config: dict[str, Any],
    program: Sequence[str] = ("obt_agent", "run", "--config"),
) -> AsyncIterator[str]:
    """Enrol a machine, run its agent while the context lasts, and give its id once its models are known.

    Args:
        folder: where its files are.
        client: of the server.
        config: the agent's configuration; the state folder is added.
        program: the module that runs, and its arguments; the configuration's path is added.

    Raises:
        ChildFailed: a process ended, or did not come up.
    """
    config["agent"]["state_dir"] = str(folder / "state")
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    await _enrol(folder, path, client)
    command = [sys.executable, "-m", *program, str(path)]
    async with running(
        f"The agent {config['agent']['name']}", command, folder / "agent.log", _environ()
    ) as child:
        while not (ready := await _admitted(client, config["agent"]["name"])):
            # An agent that ended will not be admitted: better its log than a wait without end.
            child.check()
            await asyncio.sleep(0.05)
        yield ready


async def _enrol(folder: Path, config: Path, client: Client) -> None:
    """As a new user does it: a join token from the server, ``obt-agent enroll`` on the machine."""
    issued = await client.post("/join-tokens", {"note": "demonstration"})
    token_file = folder / "join-token"
    # Made before it is filled, so that the secret is never readable by others.
    token_file.touch(mode=0o600)
    token_file.write_text(issued["secret"])
    command = [sys.executable, "-m", "obt_agent", "enroll", "--config", str(config)]
    command += ["--token-file", str(token_file)]
    async with running("Enrolment", command, folder / "enroll.log", _environ()) as child:
        async with asyncio.timeout(ENROLLED_WITHIN_S):
            status = await child.process.wait()
        if status != 0:
            raise child.failed(f"ended with status {status}")
    token_file.unlink()


def _environ() -> dict[str, str]:
    """Ours, without what would override the demonstration's own configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OBT_") and name not in SHORT_NAMES
    }


async def _admitted(client: Client, name: str) -> str | None:
    for agent in await client.get("/agents"):
        # Its models have come too: the steps that follow need them.
        there = agent["presence"] == "online" and agent["ollama"] and agent["model_count"] is not None
        if there and agent["name"] == name:
            return str(agent["id"])
    return None
