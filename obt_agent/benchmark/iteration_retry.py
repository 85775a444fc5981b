"""The attempts of one iteration: short outputs and endless repetition are asked for again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from obt_agent.benchmark.attempt import AttemptResult
from obt_agent.benchmark.expansion import MAX_SHORT_RETRIES
from obt_agent.benchmark.request_body import Prompt
from obt_agent.errors import StreamIncomplete

Send = Callable[[list[Prompt]], Awaitable[AttemptResult]]
Survive = Callable[[Callable[[], Awaitable[AttemptResult]]], Awaitable[AttemptResult]]


class IterationRetry:
    """One iteration's attempts.

    Args:
        given: prompts that are repeated on purpose; None takes fresh ones for each attempt, and only then is
            anything repeated, since a fixed prompt gives the same again.
        fresh: prompts that were never sent before.
        send: one attempt.
        survive: makes an attempt again when Ollama went away and came back.
        stops_early: the model is known to end early, so that short outputs are not repeated.
    """

    def __init__(
        self,
        given: list[Prompt] | None,
        *,
        fresh: Callable[[], list[Prompt]],
        send: Send,
        survive: Survive,
        stops_early: bool,
    ) -> None:
        self._given = given
        self._fresh = fresh
        self._send = send
        self._survive = survive
        self.stops_early = stops_early
        # Those of the last attempt, whose figures count.
        self.prompts: list[Prompt] = []
        self.attempts = 0
        # What happened on the way, for the iteration's flags.
        self.flags: set[str] = set()

    async def run(self) -> AttemptResult:
        """The first attempt that is whole, or the last one.

        Raises:
            StreamIncomplete: every attempt ended in endless repetition, or connections broke too often.
        """
        while True:
            self.attempts += 1
            try:
                done = await self._survive(self._once)
            except StreamIncomplete as error:
                # A broken connection is retryable, and was survived as often as it may be; repetition is not.
                if error.retryable or not self._may_repeat():
                    raise
                self.flags.add("repetition_retried")
                continue
            # A short answer measures a shorter decode: its rates compare, its totals do not.
            if not done.whole.short_output:
                return done
            if self.stops_early or not self._may_repeat():
                self.stops_early = True
                return done
            self.flags.add("short_retried")

    async def _once(self) -> AttemptResult:
        self.prompts = self._fresh() if self._given is None else self._given
        return await self._send(self.prompts)

    def _may_repeat(self) -> bool:
        return self._given is None and self.attempts <= MAX_SHORT_RETRIES
