"""[STREAM], [CREDIT], [ALIVE]: what the server makes of a stream, and what it grants."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from obt_agent.protocol import limits
from obt_conformance.checks import RuleBroken
from obt_conformance.drivers import Provoked
from obt_conformance.server_harness import AgentConnection, ServerHarness
from obt_conformance.server_rules.registry import CHECKS
from obt_conformance.wire import Frame, JsonObject

FINAL = {"model": "conformance:1b", "done": True, "eval_count": 2}
ITEM_BYTES = 8 << 10
LONG_STREAM = 20
"""Items of 8 KiB: several windows of every server with the usual credit."""


class Reply:
    """The agent's side of one streamed request."""

    def __init__(self, agent: AgentConnection, request: Frame) -> None:
        self.agent = agent
        self.request = request
        self.seq = 0
        self.spent = 0

    def chunk(self, text: str) -> JsonObject:
        """One of Ollama's objects."""
        return {"model": "conformance:1b", "response": text, "done": False}

    async def items(self, *chunks: JsonObject, seq: int | None = None) -> None:
        """One ``stream.data`` with these chunks."""
        await self._data(items=[{"t_us": 1000 + self.seq, "chunk": chunk} for chunk in chunks], seq=seq)

    async def pieces(self, text: str, size: int) -> None:
        """A text in pieces."""
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        for number, part in enumerate(parts):
            await self._data(part=part, more=number < len(parts) - 1)

    async def _data(self, *, seq: int | None = None, **body: Any) -> None:
        number = self.seq if seq is None else seq
        self.seq = number + 1
        self.spent += await self.agent.wire.notify(
            "stream.data", {"id": self.request.id, "seq": number, **body}
        )

    @property
    def balance(self) -> int:
        """What the server still takes of this stream."""
        return self.agent.stream_credit + self.agent.granted("stream.credit", self.request.id) - self.spent

    async def credit(self) -> None:
        """Wait until both balances are positive.

        Raises:
            RuleBroken: the server grants nothing.
        """
        await self.agent.wire.until(lambda: self.balance > 0, "no stream.credit came")
        await self.agent.wire.until(lambda: self.agent.link_credit > self.spent, "no link.credit came")

    async def final(self, **changes: Any) -> None:
        """The answer."""
        result = {"final": FINAL, "t_us": 9000, "stream": {"next_seq": self.seq, "dropped": 0}, **changes}
        await self.agent.wire.send({"jsonrpc": "2.0", "id": self.request.id, "result": result})

    async def error(self, code: int, kind: str) -> None:
        """The answer, as an error."""
        data = {"kind": kind, "stream": {"next_seq": self.seq, "dropped": 0}}
        error = {"code": code, "message": "made by the conformance kit", "data": data}
        await self.agent.wire.send({"jsonrpc": "2.0", "id": self.request.id, "error": error})


async def _outcome(call: Provoked, harness: ServerHarness) -> bool:
    try:
        async with asyncio.timeout(harness.deadlines.answer_s):
            return await call.succeeded()
    except TimeoutError:
        raise RuleBroken("the server's caller got no end of its call") from None


@CHECKS.check("STREAM-1", "items in order reach the caller, a hole ends the call as failed")
async def holes(harness: ServerHarness) -> str:
    """A text with a hole must not pass for a whole one."""
    async with harness.agent() as agent:
        async with harness.provoked(agent, "generate") as (call, request):
            reply = Reply(agent, request)
            for text in "abc":
                await reply.items(reply.chunk(text))
            await reply.final()
            if not await _outcome(call, harness):
                raise RuleBroken("a whole stream was not taken for one")
        async with harness.provoked(agent, "generate") as (call, request):
            reply = Reply(agent, request)
            await reply.items(reply.chunk("a"))
            await reply.items(reply.chunk("c"), seq=2)
            await reply.final()
            if await _outcome(call, harness):
                raise RuleBroken("a stream with a hole passed for a whole one")
        await agent.check_responsive()
    return "whole: taken; with a hole: failed"


@CHECKS.check("STREAM-2", "an error as final is an error to the caller")
async def error_final(harness: ServerHarness) -> str:
    """After items that came through."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        await reply.items(reply.chunk("a"))
        await reply.error(-32011, "stream_incomplete")
        if await _outcome(call, harness):
            raise RuleBroken("an error passed for a whole answer")
    return "the caller was told"


@CHECKS.check("STREAM-3", "a large item comes in pieces")
async def large_item(harness: ServerHarness) -> str:
    """26 KiB of one of Ollama's objects."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        text = json.dumps({"t_us": 5, "chunk": reply.chunk("x" * 26_000)})
        for at in range(0, len(text), ITEM_BYTES):
            await reply.credit()
            piece, more = text[at : at + ITEM_BYTES], at + ITEM_BYTES < len(text)
            await reply._data(part=piece, more=more)  # noqa: SLF001 - a piece of its own size
        await reply.final()
        if not await _outcome(call, harness):
            raise RuleBroken("an item in pieces was not taken")
    return f"{len(text)} bytes in pieces"


@CHECKS.check("STREAM-3", "a large result comes in pieces, and its sha256 is held against them")
async def large_result(harness: ServerHarness) -> str:
    """Once right, once wrong."""
    text = json.dumps({"embeddings": [[0.25] * 4000]})
    right = hashlib.sha256(text.encode()).hexdigest()
    async with harness.agent() as agent:
        for digest, good in ((right, True), ("0" * 64, False)):
            async with harness.provoked(agent, "embed") as (call, request):
                reply = Reply(agent, request)
                await reply.pieces(text, ITEM_BYTES)
                body = {"bytes": len(text), "sha256": digest, "stream": {"next_seq": reply.seq, "dropped": 0}}
                await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "result": body})
                if await _outcome(call, harness) is not good:
                    raise RuleBroken("taken with a wrong sha256" if not good else "not taken")
    return "right: taken; wrong: failed"


@CHECKS.check("CREDIT-1", "credit of streams and of the link comes back as it is read")
async def grants(harness: ServerHarness) -> str:
    """A stream of several windows goes through."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        for _ in range(LONG_STREAM):
            await reply.credit()
            await reply.items(reply.chunk("x" * ITEM_BYTES))
        await reply.final()
        if not await _outcome(call, harness):
            raise RuleBroken("a long stream was not taken")
        granted = agent.granted("stream.credit", request.id)
        if granted > reply.spent + limits.MAX_BALANCE_BYTES:
            raise RuleBroken(f"{granted} bytes were granted for {reply.spent}")
        return f"{reply.spent} bytes sent, {granted} granted to the stream"


@CHECKS.check("CREDIT-1", "syncs cost link credit, and it comes back")
async def link_grants(harness: ServerHarness) -> str:
    """More than one window of syncs."""
    async with harness.agent() as agent:
        spent, wanted = 0, agent.link_credit * 3 // 2
        while spent < wanted:
            await agent.wire.until(lambda: agent.link_credit > spent, "no link.credit came")  # noqa: B023 - awaited
            sync = agent.models_sync(padding=ITEM_BYTES)
            spent += len(json.dumps(sync)) + 64
            answer = await agent.wire.ask("models.sync", sync)
            if answer.error_code is not None:
                raise RuleBroken(f"models.sync was answered with error {answer.error_code}")
        return f"{spent} bytes of syncs, {agent.granted('link.credit')} granted"


@CHECKS.check("CREDIT-2", "one frame may overdraw")
async def overdraw(harness: ServerHarness) -> str:
    """The balance was positive when it went."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        while (left := reply.balance) > ITEM_BYTES:
            await reply.items(reply.chunk("x" * (min(left, 4 * ITEM_BYTES) - 512)))
            if reply.spent > agent.stream_credit:
                break
        await reply.items(reply.chunk("x" * 3 * ITEM_BYTES))
        await reply.final()
        if not await _outcome(call, harness):
            raise RuleBroken("a stream that overdrew once was not taken")
        await agent.check_responsive()
        return f"{reply.spent} bytes against {agent.stream_credit}"


@CHECKS.check("CREDIT-4", "a stream that nobody ends does not hold up the rest")
async def others_go_on(harness: ServerHarness) -> str:
    """Its window is full; syncs are answered and granted."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (_, request):
        reply = Reply(agent, request)
        while reply.spent <= agent.stream_credit:
            await reply.items(reply.chunk("x" * ITEM_BYTES))
        for _ in range(20):
            sync = agent.models_sync(padding=ITEM_BYTES)
            answer = await agent.wire.ask("models.sync", sync)
            if answer.error_code is not None:
                raise RuleBroken(f"models.sync was answered with error {answer.error_code}")
        await agent.wire.until(lambda: agent.granted("link.credit") > 0, "no link.credit came")
        await reply.error(-32004, "cancelled")
    return "20 syncs went past"


@CHECKS.check("ALIVE-1", "a call fails when its session ends")
async def link_lost(harness: ServerHarness) -> str:
    """At once, and nothing is replayed at the next admission."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (call, _):
        agent.wire.abort()
        if await _outcome(call, harness):
            raise RuleBroken("a call whose session ended passed for a whole one")
    async with harness.agent() as agent:
        await agent.wire.quiet_for(harness.deadlines.quiet_s)
        if agent.wire.of("generate"):
            raise RuleBroken("the call came again in the next session")
    return "failed, and was not replayed"


@CHECKS.check(
    "ALIVE-2", "streams.alive, where it comes, lists the live stream", takes_s=limits.STREAMS_ALIVE_INTERVAL_S
)
async def streams_alive(harness: ServerHarness) -> str:
    """It is optional."""
    async with harness.agent() as agent, harness.provoked(agent, "generate") as (_, request):
        await agent.wire.quiet_for(harness.deadlines.streams_alive_s + harness.deadlines.slack_s)
        listed = agent.wire.of("streams.alive")
        for frame in listed:
            if frame.at > request.at and request.id not in frame.params.get("ids", ()):
                raise RuleBroken(f"streams.alive listed {frame.params}, and not {request.id!r}"[:200])
        await Reply(agent, request).error(-32004, "cancelled")
        return f"listed {len(listed)} times" if listed else "the server does not list streams"
