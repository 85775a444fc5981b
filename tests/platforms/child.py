"""``python -m tests.platforms.child SYSTEM FOLDER SERVER OLLAMA``: the whole agent, on what a system has.

Imports every module, runs the commands against a server and an Ollama that run elsewhere, and prints what
worked, a line each. It ends with status 0 when all did. ``FOLDER`` is an empty one, and standard input has a
join token. The daemon runs until it gets SIGTERM.
"""

from __future__ import annotations

# What chooses its parts by the system is imported before it seems to be another one.
import asyncio
import contextlib
import importlib
import io
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import aiohttp
import cryptography.hazmat.primitives.asymmetric.ed25519
import fastapi
import psutil
import python_socks.async_.asyncio
import rich.progress
import sqlalchemy.dialects.sqlite
import structlog
import tenacity
import uvicorn.server
import websockets.client

from tests.platforms.lacking import OURS, lack

del (aiohttp, asyncio, cryptography, fastapi, psutil, python_socks, rich)
del (sqlalchemy, structlog, tenacity, uvicorn, websockets)


def imported() -> list[str]:
    """Import every module of ours; return the faults."""
    faults, count = [], 0
    for package in OURS:
        whole = importlib.import_module(package)
        # A package that cannot be imported is a fault below, and its modules are not found.
        for module in pkgutil.walk_packages(whole.__path__, f"{package}.", onerror=lambda _name: None):
            # Alembic runs this one itself, with what it is about in it.
            if module.name == "obt_server.store.migrations.env":
                continue
            count += 1
            try:
                importlib.import_module(module.name)
            except Exception:  # noqa: BLE001 - each is a finding
                faults.append(f"{module.name}: {traceback.format_exc().splitlines()[-1]}")
    say("import", not faults, f"{count - len(faults)} of {count} modules")
    return faults


def say(what: str, good: bool, words: str) -> None:
    print(json.dumps({"what": what, "ok": good, "words": words}), flush=True)  # noqa: T201 - the parent reads it


def command(what: str, words: list[str], *, good: Callable[[int, str], bool]) -> None:
    """Run one command of obt-agent in this process, and say how it went."""
    from obt_agent.cli import main  # noqa: PLC0415 - not before the system is another one

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        status = main([what, *words])
        out.flush()
    # Read back from the bytes: some commands write those.
    text = out.buffer.getvalue().decode()
    say(what, good(status, text), f"status {status}" if good(status, text) else f"status {status}: {text}")


def main(system: str, folder: Path, server: str, ollama: str) -> int:
    """Do all of it."""
    lack(system)
    # In full where the parent shows it when something failed.
    for fault in imported():
        sys.stderr.write(fault + "\n")
    os.environ |= {"HOME": str(folder), "ProgramData": str(folder), "XDG_CONFIG_HOME": str(folder)}
    # Polled often, so that the server soon knows the models.
    config = folder / "agent.yaml"
    locks = folder / "locks"
    config.write_text(
        f"server: {{url: '{server}'}}\nollama: {{url: '{ollama}', poll_interval_s: 0.2}}\n"
        f"agent: {{name: here, state_dir: '{folder / 'state'}'}}\nbenchmark: {{lock_dir: '{locks}'}}\n"
    )
    given = ["--config", str(config)]
    command("models", ["--json", *given], good=lambda status, text: status == 0 and "standin" in text)
    bench = ["standin-small:latest", "--iterations", "1", "--warmup", "0", "--shape", "16:8"]
    command("bench", [*bench, "--json", *given], good=lambda status, text: status == 0 and '"host"' in text)
    command("enroll", ["--token-file", "-", *given], good=lambda status, _: status == 0)
    command("run", given, good=lambda status, _: status == 0)
    command("check", ["--json", *given], good=lambda status, text: status == 0 and "server" in text)
    command("status", given, good=lambda _, text: "Traceback" not in text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:5]))
