"""Surviving an Ollama, or a process that runs the model, that goes away and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from obt_agent.benchmark.run_state import RunState
from obt_agent.errors import OllamaError, OllamaUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")


class OllamaRecovery:
    """Counts, for one cell, how often Ollama went away, and waits for it.

    Args:
        stage: the run; its limits say how often and how long.
        reload: loads the model again, so that no iteration's TTFT holds the load.
    """

    def __init__(self, stage: RunState, reload: Callable[[], Awaitable[object]]) -> None:
        self._stage = stage
        self._reload = reload
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
                if not error.retryable or self.times >= self._stage.limits.returns:
                    raise
                self.times += 1
                away = error
                log.warning("benchmark.ollama_went_away", error=error.message, times=self.times)

    async def _come_back(self, cause: OllamaError) -> None:
        """Wait until Ollama answers as the version that it was, then load the model."""
        with self._stage.waiting():
            version = await self._answering_version(cause)
        before = self._stage.environment.ollama_version
        if version != before:
            raise OllamaError(
                f"Ollama came back as version {version}, after {before}: "
                "figures of two versions do not belong together; run again"
            ) from cause
        await self._reload()

    async def _answering_version(self, cause: OllamaError) -> str:
        deadline = time.monotonic() + self._stage.limits.return_s
        while True:
            try:
                return await self._stage.ollama.version()
            except OllamaUnavailable:
                if time.monotonic() >= deadline:
                    self.times = self._stage.limits.returns
                    raise cause from None
                await asyncio.sleep(self._stage.limits.poll_s)
