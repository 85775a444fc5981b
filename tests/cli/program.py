"""The program as a person or a service starts it: as a process, or in a thread of this one."""

import asyncio
import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from obt_agent.cli import main

_WITHIN_S = 60


@dataclass(frozen=True)
class Ended:
    """What a process left."""

    code: int
    out: str
    err: str


async def in_process(home: Path, *words: str, given: str = "", **environ: str) -> Ended:
    """Run one command in a thread, where no process is part of what is tested: it starts in no time.

    Folder, environment and standard streams are those of the command until it ends; the caller's event loop
    goes on, so that a server in it answers.
    """
    out, err = io.BytesIO(), io.BytesIO()
    # A wrapper that nobody holds closes what it wraps.
    shown, complained = (io.TextIOWrapper(one, encoding="utf-8", write_through=True) for one in (out, err))
    with (
        contextlib.chdir(home),
        mock.patch.dict(os.environ, {"HOME": str(home), "COLUMNS": "160", **environ}, clear=True),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode()))),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(complained),
    ):
        code = await asyncio.to_thread(_exit_code, words)
    return Ended(code, out.getvalue().decode(), err.getvalue().decode())


def _exit_code(words: tuple[str, ...]) -> int:
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


async def obt_agent(
    home: Path, *words: str, given: str | None = "", encoding: str = "utf-8", **environ: str
) -> Ended:
    """Run one command; ``given`` is its standard input, ``encoding`` what its output must be."""
    ours = {
        name: text for name, text in os.environ.items() if not name.startswith(("OBT_", "OLLAMA_", "XDG_"))
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "obt_agent",
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=home,
        env={**ours, "HOME": str(home), "COLUMNS": "160", **environ},
    )
    async with asyncio.timeout(_WITHIN_S):
        out, err = await process.communicate(None if given is None else given.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(encoding), err.decode(encoding))
