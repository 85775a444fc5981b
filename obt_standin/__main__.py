"""``python -m obt_standin``: one stand-in for Ollama or several, as a process of their own.

Prints one line of JSON for each, ``{"url": …}``, when it listens; ends on SIGTERM or SIGINT. With ``serve``
it also looks like Ollama from outside: it listens where ``OLLAMA_HOST`` says, and is called ``ollama`` in the
system's list of processes (on Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from obt_standin.script import Script
from obt_standin.server import StandIn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit status: 2 for a script or a port that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="obt_standin", description="A stand-in for Ollama; it runs no model."
    )
    parser.add_argument(
        "command", nargs="?", choices=["serve"], help="look like Ollama's server in the list of processes"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on; 0 takes a free one (%(default)s)"
    )
    parser.add_argument(
        "--script",
        type=Path,
        action="append",
        help="JSON file with the fields of obt_standin.Script; given again, another stand-in beside it",
    )
    given = parser.parse_args(arguments)
    if given.command == "serve":
        given.port = given.port or _port_of(os.environ.get("OLLAMA_HOST", ""))
        # Linux alone has it.
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text("ollama", encoding="ascii")
    if given.port and len(given.script or ()) > 1:
        parser.error("several scripts need --port 0: each stand-in has a port of its own")
    try:
        scripts = [read_script(path) for path in given.script] if given.script else [Script()]
        asyncio.run(_serve(scripts, given.host, given.port))
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"obt_standin: {error}\n")
        return 2
    return 0


def _port_of(ollama_host: str) -> int:
    """The port in ``OLLAMA_HOST``, which may leave it out."""
    digits = ollama_host.rpartition(":")[2]
    return int(digits) if digits.isdigit() else 11434


def read_script(path: Path) -> Script:
    """A script from a JSON file; raises ``msgspec.MsgspecError`` naming the field that is wrong."""
    return msgspec.json.decode(path.read_bytes(), type=Script)


async def _serve(scripts: Sequence[Script], host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        # The loops of Windows cannot.
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with contextlib.AsyncExitStack() as stack:
        for script in scripts:
            standin = await stack.enter_async_context(StandIn(script, host=host, port=port, control=True))
            sys.stdout.write(json.dumps({"url": standin.url}) + "\n")
            # Whoever started it waits for this line, on a pipe.
            sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    raise SystemExit(main())
