"""The memory of a loaded model: a process of its own that holds it, and the prompts that it keeps there."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from obt_standin.script import Model, Script
from obt_standin.store import blob_path

# Since then the runner is llama-server; before, it was Ollama's own program.
_LLAMA_SERVER_SINCE: Final = (0, 30)
_PROGRAM: Final = Path(__file__).with_name("runner_process.py")


class RunnerMemory:
    """A real process with the command line of Ollama's runner.

    It holds ``runner_memory_mb`` and, as llama-server does, the key-value cache of finished prompts, up to
    ``prompt_cache_limit_mb``.
    """

    def __init__(self, script: Script, model: Model, num_ctx: int) -> None:
        self._script = script
        # MiB of prompts that it keeps now.
        self._kept_mb = 0
        command = [sys.executable, "-I", "-S", str(_PROGRAM), *_arguments(script, model, num_ctx)]
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, on a file of this package
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def load(self) -> None:
        """Hold the model."""
        await self._hold()

    async def keep_prompt(self, size_mb: int) -> None:
        """Keep one finished prompt more; the oldest ones make room where the limit is reached."""
        self._kept_mb = min(self._kept_mb + size_mb, self._script.prompt_cache_limit_mb)
        await self._hold()

    def end(self) -> None:
        """Kill the process, as Ollama does to unload a model."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    async def _hold(self) -> None:
        # In a thread: touching memory takes milliseconds, in which generations go on.
        await asyncio.to_thread(self._ask, self._script.runner_memory_mb + self._kept_mb)

    def _ask(self, size_mb: int) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was started with both pipes
        assert self._process.stdout is not None  # noqa: S101 - as above
        try:
            self._process.stdin.write(b"%d\n" % size_mb)
            self._process.stdin.flush()
            self._process.stdout.readline()
        except (OSError, ValueError):
            # Killed meanwhile: whoever waits for it is told by ``LoadedModel.killed``.
            return


def _arguments(script: Script, model: Model, num_ctx: int) -> list[str]:
    """The command line after the program, as read in Ollama's source (llm/llama_server.go, llm/server.go)."""
    blob = blob_path(model.blobs[0].digest)
    # Ollama takes a free port in the same way, and like there it may be another's by the time it is used.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    numbers = re.match(r"(\d+)\.(\d+)", script.version)
    version = (int(numbers[1]), int(numbers[2])) if numbers else _LLAMA_SERVER_SINCE
    if version < _LLAMA_SERVER_SINCE:
        return ["runner", "--ollama-engine", "--model", blob, "--port", port]
    parallel = script.num_parallel
    context = ["-c", str(num_ctx * parallel), "-np", str(parallel)]
    return ["--model", blob, "--port", port, "--host", "127.0.0.1", "--no-webui", "--offline", *context]
