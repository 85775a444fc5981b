"""Ways into a server beside its agents' door: to make it act, to look at what it stored, to restart it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from obt_agent.system import processes
from obt_conformance import web
from obt_conformance.checks import Untested

# What the server is asked to send, by method: the parameters of ``run_benchmark`` are its plan.
EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {"model": "conformance:1b", "prompt": "Say something."},
    "chat": {"model": "conformance:1b", "messages": [{"role": "user", "content": "Say something."}]},
    "embed": {"model": "conformance:1b", "input": "something"},
    "list_models": {},
    "run_benchmark": {"model_name": "conformance:1b"},
    "credentials.rotate": {},
}

# From SIGTERM to SIGKILL.
_STOP_S = 5

NO_TRIGGER = "the server must be made to act: give --trigger"
NO_QUERY = "what the server stored cannot be seen: give --query"


@dataclass(frozen=True)
class ServerJob:
    """A job as the server shows it to its users. ``result`` is JSON; None where it has none."""

    state: str
    result: Any = None


class Caller:
    """The server's user in one call. It reads what the server sends until it is paused."""

    def __init__(self) -> None:
        # Cleared while it reads nothing.
        self.may_read = asyncio.Event()
        self.may_read.set()
        # The leader of the command's group of processes, where a command is the caller.
        self.process: asyncio.subprocess.Process | None = None

    def pause(self) -> None:
        """Read nothing more, and stay connected."""
        self.may_read.clear()
        self._send(processes.pause_group)

    def resume(self) -> None:
        """Read on."""
        self.may_read.set()
        self._send(processes.resume_group)

    def end(self) -> None:
        """Ask the command and all that it started to end."""
        self._send(processes.end_group)

    def kill(self) -> None:
        """End the command and all that it started at once."""
        self._send(processes.kill_group)

    def _send(self, send: Callable[[int], None]) -> None:
        if self.process is not None and self.process.returncode is None:
            send(self.process.pid)


class Driver:
    """A way into one server. This one knows none: all that it is asked for is ``Untested``."""

    # What it can do: a check that could also do without asks here.
    triggers = False
    queries = False

    async def call(self, method: str, agent_id: str, caller: Caller) -> bool:
        """Make the server send the method to that agent; return whether its caller got a whole answer.

        Cancelling it makes the server's caller go away.

        Raises:
            Untested: there is no such way.
        """
        del method, agent_id, caller
        raise Untested(NO_TRIGGER)

    async def job(self, agent_id: str, job_id: str) -> ServerJob | None:
        """Return what the server shows of a job; None when it shows none. Raises as ``call``."""
        del agent_id, job_id
        raise Untested(NO_QUERY)

    async def models(self, agent_id: str) -> list[str]:
        """Return the names of the models that the server shows of an agent. Raises as ``call``."""
        del agent_id
        raise Untested(NO_QUERY)

    async def restart(self) -> None:
        """Stop the server and start it again. Raises as ``call``."""
        raise Untested("the server must be restarted: give --restart")


async def run_command(*words: str, caller: Caller | None = None) -> bool:
    """Run a command to its end, and return whether it exited with 0. Cancelling it ends the command."""
    caller = caller or Caller()
    async with _started(words, caller, asyncio.subprocess.DEVNULL) as process:
        return await process.wait() == 0


@contextlib.asynccontextmanager
async def _started(
    words: tuple[str, ...], caller: Caller, stdout: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command in a group of processes of its own, which is ended on leaving."""
    process = caller.process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=stdout, start_new_session=True
    )
    try:
        yield process
    finally:
        # One that is stopped gets SIGTERM only when it goes on.
        caller.end()
        caller.resume()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            caller.kill()
            await process.wait()


class CommandDriver(Driver):
    """Commands of the server's author. In each, words in braces are put in.

    Args:
        trigger: ``{agent_id}``, ``{method}`` and ``{params}`` (JSON). It runs until the server's caller has
            its answer, and exits 0 if that was whole. SIGTERM makes it give up.
        query: ``{what}`` is ``models`` or ``job``, of ``{agent_id}`` and ``{job_id}``. It prints JSON: a list
            of names, or an object with ``state`` and ``result``. It exits with another status than 0 for a
            job that the server does not know.
        restart: stops the server and starts it again; exits 0 when that is under way.
        otherwise: what stands in for a command that is None.
    """

    def __init__(
        self,
        trigger: str | None = None,
        query: str | None = None,
        restart: str | None = None,
        *,
        otherwise: Driver | None = None,
    ) -> None:
        self._trigger, self._query, self._restart = trigger, query, restart
        self._otherwise = otherwise or Driver()
        self.triggers = trigger is not None or self._otherwise.triggers
        self.queries = query is not None or self._otherwise.queries

    async def call(self, method: str, agent_id: str, caller: Caller) -> bool:
        """See ``Driver``."""
        if self._trigger is None:
            return await self._otherwise.call(method, agent_id, caller)
        values = {"agent_id": agent_id, "method": method, "params": json.dumps(EXAMPLES[method])}
        return await run_command(*_words(self._trigger, values), caller=caller)

    async def job(self, agent_id: str, job_id: str) -> ServerJob | None:
        """See ``Driver``."""
        if self._query is None:
            return await self._otherwise.job(agent_id, job_id)
        found = await self._ask({"what": "job", "agent_id": agent_id, "job_id": job_id})
        return None if found is None else ServerJob(str(found.get("state")), found.get("result"))

    async def models(self, agent_id: str) -> list[str]:
        """See ``Driver``."""
        if self._query is None:
            return await self._otherwise.models(agent_id)
        return list(await self._ask({"what": "models", "agent_id": agent_id, "job_id": ""}) or ())

    async def _ask(self, values: dict[str, str]) -> Any:
        words = _words(self._query or "", values)
        async with _started(words, Caller(), asyncio.subprocess.PIPE) as process:
            output, _ = await process.communicate()
        return json.loads(output) if process.returncode == 0 else None

    async def restart(self) -> None:
        """See ``Driver``."""
        if self._restart is None:
            await self._otherwise.restart()
        elif not await run_command(*shlex.split(self._restart)):
            raise Untested("--restart ended with a failure")


def _words(template: str, values: dict[str, str]) -> tuple[str, ...]:
    # In one pass: a value that holds a placeholder's name stays as it is.
    pattern = re.compile("|".join(re.escape(f"{{{name}}}") for name in values))
    return tuple(pattern.sub(lambda at: values[at[0][1:-1]], word) for word in shlex.split(template))


class RestDriver(Driver):
    """The REST interface of ``obt-server``.

    Args:
        url: ``http(s)://host``.
        token: an API token.
        within_s: how long an answer may take; one that streams has no limit of its own.
    """

    triggers = True
    queries = True

    def __init__(self, url: str, token: str, *, within_s: float) -> None:
        self._api = url.rstrip("/") + "/api/v1"
        self._token = token
        self._within_s = within_s

    async def join_token(self) -> str:
        """Return a fresh one.

        Raises:
            OSError: the server did not give one.
        """
        url, body = f"{self._api}/join-tokens", {"note": "conformance"}
        answer = await web.request("POST", url, self._token, body, within_s=self._within_s)
        if not answer.ok:
            raise OSError(f"the server gave no join token: {answer.status} {answer.body}")
        return str(answer.body["secret"])

    async def call(self, method: str, agent_id: str, caller: Caller) -> bool:
        """See ``Driver``."""
        path, body = f"/agents/{agent_id}/commands/{method}", EXAMPLES[method]
        if method == "run_benchmark":
            path, body = "/benchmarks", {"agent": agent_id, "plan": EXAMPLES[method]}
        elif method == "credentials.rotate":
            path = f"/agents/{agent_id}/credentials/rotate"
        url, may_read = self._api + path, caller.may_read
        try:
            answer = await web.request("POST", url, self._token, body, within_s=None, may_read=may_read)
        except OSError:
            return False
        # A stream of events is whole when it ends with its final; other answers hold no events.
        events = re.findall(r"^event: (\w+)", str(answer.body), re.MULTILINE)
        return answer.ok and events[-1:] in ([], ["final"])

    async def job(self, agent_id: str, job_id: str) -> ServerJob | None:
        """See ``Driver``."""
        found = await self._get(f"/benchmarks/{job_id}?agent={agent_id}")
        if not found.ok:
            return None
        result = await self._get(f"/benchmarks/{job_id}/result?agent={agent_id}")
        return ServerJob(found.body["state"], result.body if result.ok else None)

    async def models(self, agent_id: str) -> list[str]:
        """See ``Driver``."""
        return [model["name"] for model in (await self._get(f"/agents/{agent_id}/models")).body]

    async def _get(self, path: str) -> web.ApiResponse:
        return await web.request("GET", self._api + path, self._token, within_s=self._within_s)
