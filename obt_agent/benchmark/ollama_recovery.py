"""Surviving an Ollama, or a process that runs the model, that goes away and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from obt_agent.benchmark.run_state import RunState
from obt_agent.errors import OllamaError

log = structlog.get_logger(__name__)

T = TypeVar("T")


class OllamaRecovery:
    """Waits for an Ollama that went away, and makes what it broke off again.

    Args:
        state: the run; its limits say how often and how long.
        reload: loads the model again after Ollama came back, so that no iteration's TTFT holds the load.
    """

    def __init__(self, state: RunState, reload: Callable[[], Awaitable[object]] | None = None) -> None:
        self._state = state
        self._reload = reload
        # How often Ollama went away so far; at the limit its next failure ends the run.
        self.times = 0

    async def surviving(self, action: Callable[[], Awaitable[T]]) -> T:
        """The action, made again after Ollama came back.

        Raises:
            OllamaError: it did not come back in time, went away too often, came back as another version, or
                refuses for good.
        """
        away: OllamaError | None = None
        while True:
            try:
                if away is not None:
                    await self._come_back(away)
                return await action()
            except OllamaError as error:
                if not error.retryable or self.times >= self._state.limits.returns:
                    raise
                self.times += 1
                away = error
                log.warning("benchmark.ollama_went_away", error=error.message, times=self.times)

    async def _come_back(self, cause: OllamaError) -> None:
        """Wait until Ollama answers as the version that it was, then load the model."""
        with self._state.waiting():
            version = await self._answering_version(cause)
        before = self._state.environment.ollama_version
        # Versions differ in speed and in what their counters mean: one mean over both means nothing.
        if version != before:
            raise OllamaError(
                f"Ollama came back as version {version}, after {before}: "
                "figures of two versions do not belong together; run again"
            ) from cause
        if self._reload is not None:
            await self._reload()

    async def _answering_version(self, cause: OllamaError) -> str:
        deadline = time.monotonic() + self._state.limits.return_s
        while True:
            try:
                return await self._state.ollama.version()
            except OllamaError as error:
                # What stands before a restarting Ollama answers in its place; Ollama itself may be busy.
                if not error.retryable:
                    raise
                if time.monotonic() >= deadline:
                    self.times = self._state.limits.returns
                    raise cause from None
                await asyncio.sleep(self._state.limits.poll_s)
