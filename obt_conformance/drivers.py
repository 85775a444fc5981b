"""Making a server send a method to the agent that the kit plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp

from obt_conformance import web

EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {"model": "conformance:1b", "prompt": "Say something."},
    "chat": {"model": "conformance:1b", "messages": [{"role": "user", "content": "Say something."}]},
    "embed": {"model": "conformance:1b", "input": "something"},
    "list_models": {},
    "run_benchmark": {"model_name": "conformance:1b"},
    "credentials.rotate": {},
}
"""What the server is asked to send, by method: the parameters of ``run_benchmark`` are its plan."""


class Provoked(Protocol):
    """A call that the server was made to make."""

    async def succeeded(self) -> bool:
        """Wait for its end; whether the server's caller got a whole answer."""

    async def stop(self) -> None:
        """The server's caller goes away."""


class Driver(Protocol):
    """A way into one server."""

    can_stop: bool
    knows_jobs: bool

    def provoke(self, method: str, agent_id: str) -> contextlib.AbstractAsyncContextManager[Provoked]:
        """Make the server send the method to that agent; leaving the context stops it."""

    async def job_state(self, job_id: str) -> str | None:
        """What the server says of a job; None when it cannot be read."""


class CommandDriver:
    """A command of the server's author.

    Args:
        template: the command; ``{agent_id}``, ``{method}`` and ``{params}`` (JSON) are put in. It runs until
            the server's caller has its answer, and exits 0 if that was whole. SIGTERM tells it to give up.
    """

    can_stop = True
    knows_jobs = False

    def __init__(self, template: str) -> None:
        self._words = shlex.split(template)

    @contextlib.asynccontextmanager
    async def provoke(self, method: str, agent_id: str) -> AsyncIterator[Provoked]:
        """See ``Driver``."""
        values = {"{agent_id}": agent_id, "{method}": method, "{params}": json.dumps(EXAMPLES[method])}
        process = await asyncio.create_subprocess_exec(
            *(_filled(word, values) for word in self._words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env=dict(os.environ),
        )
        running = _Process(process)
        try:
            yield running
        finally:
            await running.stop()

    async def job_state(self, job_id: str) -> str | None:
        """A command cannot be asked."""
        del job_id
        return None


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def succeeded(self) -> bool:
        return await self._process.wait() == 0

    async def stop(self) -> None:
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class RestDriver:
    """The REST interface of ``obt-server``.

    Args:
        url: ``http(s)://host``.
        token: an API token.
    """

    can_stop = True
    knows_jobs = True

    def __init__(self, url: str, token: str, *, within_s: float) -> None:
        self._api = url.rstrip("/") + "/api/v1"
        self._token = token
        self._within_s = within_s

    async def join_token(self) -> str:
        """A fresh one.

        Raises:
            OSError: the server did not give one.
        """
        answer = await web.post(
            f"{self._api}/join-tokens", self._token, {"note": "conformance"}, within_s=self._within_s
        )
        if answer.status != 201:  # noqa: PLR2004 - HTTP's word for made
            raise OSError(f"the server gave no join token: {answer.status} {answer.body}")
        return str(answer.body["secret"])

    @contextlib.asynccontextmanager
    async def provoke(self, method: str, agent_id: str) -> AsyncIterator[Provoked]:
        """See ``Driver``."""
        task = asyncio.create_task(self._post(method, agent_id), name=f"conformance {method}")
        call = _DriverRequest(task)
        try:
            yield call
        finally:
            await call.stop()

    async def _post(self, method: str, agent_id: str) -> bool:
        """Whether the whole answer came: events end with ``final``."""
        path, body = self._route(method, agent_id)
        status, last = 0, ""
        try:
            async with web.lines(self._api + path, self._token, body) as (status, events):
                async for line in events:
                    last = line.removeprefix("event: ") if line.startswith("event: ") else last
        except aiohttp.ClientError:
            return False
        return 200 <= status < 300 and last in ("", "final")  # noqa: PLR2004 - HTTP's words for success

    def _route(self, method: str, agent_id: str) -> tuple[str, dict[str, Any]]:
        if method == "run_benchmark":
            return "/benchmarks", {"agent": agent_id, "plan": EXAMPLES[method]}
        if method == "credentials.rotate":
            return f"/agents/{agent_id}/credentials/rotate", {}
        return f"/agents/{agent_id}/commands/{method}", EXAMPLES[method]

    async def job_state(self, job_id: str) -> str | None:
        """See ``Driver``."""
        answer = await web.get(f"{self._api}/benchmarks/{job_id}", self._token, within_s=self._within_s)
        return answer.body["state"] if answer.status == 200 else None  # noqa: PLR2004 - HTTP's word for success


class _DriverRequest:
    def __init__(self, task: asyncio.Task[bool]) -> None:
        self._task = task

    async def succeeded(self) -> bool:
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
