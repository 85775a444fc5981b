"""One planned answer on its way: each token when it is due, and the ending that the script asks for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from aiohttp import web

from obt_standin.generation import AnswerLines, Figures, GenerationPlan, Schedule, blocks, line
from obt_standin.request_body import ErrorAnswer, Json
from obt_standin.runner import Lease, RunnerKilledError
from obt_standin.script import Behaviour, Model
from obt_standin.wire import EXCHANGE, StreamedBody, json_answer

RUNNER_ENDED = "an error was encountered while running the model: unexpected EOF"
# Tokens between two turns of the event loop.
_YIELD_EVERY = 16


@dataclass
class GenerationJob:
    """One generation, from its checks to its end."""

    request: web.Request
    fields: Json
    model: Model
    behaviour: Behaviour
    chat: bool
    thinking: bool
    keep_alive_s: float | None

    @property
    def streamed(self) -> bool:
        """Whether the answer comes line by line."""
        return self.fields.get("stream") is not False


@dataclass
class Delivery:
    """The delivery of one planned answer."""

    job: GenerationJob
    lease: Lease
    content: GenerationPlan
    figures: Figures
    lines: AnswerLines
    schedule: Schedule

    def __post_init__(self) -> None:
        self._behaviour = self.job.behaviour
        # Its headers go out with the first line: until then the answer may still become an error.
        self._wire = StreamedBody(self.job.request, self.job.behaviour)
        self._exchange = EXCHANGE.get()

    async def whole(self) -> web.StreamResponse:
        """Generate to the end, then answer with one object."""
        try:
            for index in range(len(self.content.tokens)):
                await self._token_due(index)
            await self._end_of_sequence()
        except RunnerKilledError:
            # Nothing went out yet, so that the death of the runner can still be a status.
            raise ErrorAnswer(500, RUNNER_ENDED) from None
        if self._behaviour.ending == "runner_killed":
            raise ErrorAnswer(500, RUNNER_ENDED)
        figures = self._measured()
        no_end = self._behaviour.ending == "no_final_line"
        return json_answer(self.lines.whole(self.content, None if no_end else figures))

    async def stream(self) -> web.StreamResponse:
        """Generate line by line."""
        try:
            if self._behaviour.fast:
                await self._stream_fast()
            else:
                await self._stream_tokens()
        except RunnerKilledError:
            # The status is out: an error can only be a line.
            await self._wire.write([line({"error": RUNNER_ENDED})])
            await self._wire.finish()
        return self._wire.response

    async def _stream_fast(self) -> None:
        # Nothing is scheduled: the first and the last moment stand for all of them.
        self.figures.token_ns = [time.monotonic_ns()]
        for block in blocks(self.lines, self.content, self._behaviour.fast_block_lines):
            await self._wire.write_block(block)
        self.figures.token_ns.append(time.monotonic_ns())
        await self._end()

    async def _stream_tokens(self) -> None:
        total = len(self.content.tokens)
        # These end with the last token, as they do by themselves; the others break off before.
        abnormal = self._behaviour.ending not in {"done", "no_final_line", "repeat"}
        half = max(1, total // 2)
        after = self._behaviour.ending_after
        stop = min(half if after is None else after, total) if abnormal else total
        # Lines whose tokens are due, and whose write is not full yet.
        waiting: list[bytes] = []
        text = ""
        for index, token in enumerate(self.content.tokens[:stop]):
            await self._token_due(index)
            text += token
            if (index + 1) % self._behaviour.tokens_per_line and index + 1 not in {
                stop,
                self.content.thoughts,
            }:
                continue
            waiting.append(self.lines.token(text, thought=index < self.content.thoughts))
            # Its token was there in time: only who reads the line sees it late.
            if self._behaviour.first_line_late_s and not self._exchange.writes:
                await asyncio.sleep(self._behaviour.first_line_late_s)
            text = ""
            if len(waiting) >= self._behaviour.lines_per_write or index + 1 == stop:
                await self._wire.write(waiting)
                waiting = []
        if abnormal:
            await self._end_badly()
        else:
            await self._end_of_sequence()
            await self._end()

    async def _token_due(self, index: int) -> None:
        due = self.schedule.due(index)
        await alive(self.lease, due)
        # Without a rate nothing waits, and a client on this loop must run too.
        if index % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
        # When it was due, and not when it went out: a client's lateness is measured against this.
        self.figures.token_ns.append(due)
        self._exchange.token_ns.append(due)

    async def _end_of_sequence(self) -> None:
        """The token that ends an answer by itself: it takes its time and counts, and is not shown."""
        if self.content.counted > len(self.content.tokens):
            await self._token_due(len(self.content.tokens))

    async def _end(self) -> None:
        if self.content.tool_call is not None:
            await self._wire.write([self.lines.tool_call(self.content.tool_call)])
        if self._behaviour.ending != "no_final_line" and self.content.reason is not None:
            await self._wire.write([self.lines.final(self.content.reason, self._measured())])
        await self._wire.finish()

    def _measured(self) -> Json:
        self._exchange.eval_tokens = self.content.counted
        return self.figures.of(self.content.counted)

    async def _end_badly(self) -> None:
        match self._behaviour.ending:
            case "error":
                await self._wire.write([line({"error": self._behaviour.error})])
                await self._wire.finish()
            case "runner_killed":
                self.lease.runner.killed.set()
                raise RunnerKilledError
            case "broken_line":
                await self._wire.write([b'{"model": this is no JSON\n'])
                await self._wire.finish()
            case "close":
                self._wire.close()
            case "cut":
                await self._wire.cut()
            case "reset":
                self._wire.reset()
            case _:
                # Silence, until the client or the stand-in goes.
                await asyncio.Event().wait()


async def alive(lease: Lease, until_ns: int) -> None:
    """Wait until a moment, or for the runner's death.

    Raises:
        RunnerKilledError: it died.
    """
    killed = lease.runner.killed
    # Without a task where there is nothing to wait for: most tokens of a fast script are due at once.
    if not killed.is_set() and until_ns > time.monotonic_ns():
        waiting = asyncio.ensure_future(killed.wait())
        try:
            await asyncio.wait([waiting], timeout=(until_ns - time.monotonic_ns()) / 1e9)
        finally:
            waiting.cancel()
    if killed.is_set():
        raise RunnerKilledError
