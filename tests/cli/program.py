"""The program as a process of its own, as a person or a service starts it."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_WITHIN_S = 60


@dataclass(frozen=True)
class Ended:
    """What a process left."""

    code: int
    out: str
    err: str


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
