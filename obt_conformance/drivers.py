"""Making a server send a method to the agent that the kit plays."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from abc import ABC, abstractmethod
from typing import Any

from obt_conformance import web

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


class Driver(ABC):
    """A way into one server."""

    # Whether ``job_state`` can tell the state of a job.
    knows_jobs = False

    @abstractmethod
    async def call(self, method: str, agent_id: str) -> bool:
        """Make the server send the method to that agent; return whether its caller got a whole answer.

        Cancelling it makes the server's caller go away.
        """

    async def job_state(self, job_id: str) -> str | None:
        """Return the state that the server names for a job; None when it names none."""
        del job_id
        return None


async def run_command(*words: str) -> bool:
    """Run a command to its end, and return whether it exited with 0. Cancelling it ends the command."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


class CommandDriver(Driver):
    """A command of the server's author.

    Args:
        template: the command; ``{agent_id}``, ``{method}`` and ``{params}`` (JSON) are put in. It runs until
            the server's caller has its answer, and exits 0 if that was whole. SIGTERM makes it give up.
    """

    def __init__(self, template: str) -> None:
        self._words = shlex.split(template)

    async def call(self, method: str, agent_id: str) -> bool:
        """See ``Driver``."""
        values = {"{agent_id}": agent_id, "{method}": method, "{params}": json.dumps(EXAMPLES[method])}
        # In one pass: a value that holds a placeholder's name stays as it is.
        pattern = "|".join(map(re.escape, values))
        return await run_command(*(re.sub(pattern, lambda at: values[at[0]], word) for word in self._words))


class RestDriver(Driver):
    """The REST interface of ``obt-server``.

    Args:
        url: ``http(s)://host``.
        token: an API token.
        within_s: how long an answer may take; one that streams has no limit of its own.
    """

    knows_jobs = True

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

    async def call(self, method: str, agent_id: str) -> bool:
        """See ``Driver``."""
        path, body = f"/agents/{agent_id}/commands/{method}", EXAMPLES[method]
        if method == "run_benchmark":
            path, body = "/benchmarks", {"agent": agent_id, "plan": EXAMPLES[method]}
        elif method == "credentials.rotate":
            path = f"/agents/{agent_id}/credentials/rotate"
        try:
            answer = await web.request("POST", self._api + path, self._token, body, within_s=None)
        except OSError:
            return False
        # A stream of events is whole when it ends with its final; other answers hold no events.
        events = re.findall(r"^event: (\w+)", str(answer.body), re.MULTILINE)
        return answer.ok and events[-1:] in ([], ["final"])

    async def job_state(self, job_id: str) -> str | None:
        """See ``Driver``."""
        url = f"{self._api}/benchmarks/{job_id}"
        answer = await web.request("GET", url, self._token, within_s=self._within_s)
        return answer.body["state"] if answer.ok else None
