"""[CMD], [STREAM], [CREDIT], [ALIVE]: requests both ways, streams, and what the server grants."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from obt_agent.protocol import limits
from obt_agent.protocol.errors import CODE_OF_KIND
from obt_conformance.both_sides import each_answered_once
from obt_conformance.checks import RuleBroken, require
from obt_conformance.drivers import Caller
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.server_harness import CHECKS, AgentConnection, ServerHarness

FINAL = {"model": "conformance:1b", "done": True, "eval_count": 2}
ITEM_BYTES = 8 << 10
# Items of 8 KiB: several windows of every server with the usual credit.
LONG_STREAM = 20
# What kernels and proxies hold between a server and a caller that does not read is less.
MOST_UNREAD_BYTES = 16 << 20


@CHECKS.check("CMD-1", "every request of the agent is answered exactly once")
async def answered_once(harness: ServerHarness) -> str:
    """Send good, unknown and wrong ones alike."""
    async with harness.admitted() as agent:
        ids = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(5)]
        # What is refused is answered too.
        ids.append(await agent.wire.post("x.conformance"))
        ids.append(await agent.wire.post("models.sync", {"revision": "one"}))
        return await each_answered_once(agent.wire, ids, harness.deadlines.quiet_s)


@CHECKS.check("CMD-2", "generate comes with Ollama's own fields, model among them")
async def ollama_fields(harness: ServerHarness) -> str:
    """Have a generation asked for: it travels under Ollama's names."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (_, request):
        model = request.params.get("model")
        require(isinstance(model, str) and model, f"params.model is {model!r}")
        await agent.wire.refuse(request, "busy", retry_after_ms=1000)
        return f"model {model}"


@CHECKS.check("CMD-3", "wrong parameters are answered -32602 with the field's path")
async def wrong_parameters(harness: ServerHarness) -> str:
    """Send a final without its hash."""
    async with harness.admitted() as agent:
        params = {"job_id": "j", "kind": "benchmark", "state": "completed", "bytes": 2}
        answer = await agent.wire.ask_refused("invalid_params", "job.finished", params)
        message = answer.error_message
        require("sha256" in message, f"the message does not name the field: {message}")
        return message


@CHECKS.check("CMD-4", "a hundred requests at once are answered or refused as busy")
async def many_requests(harness: ServerHarness) -> str:
    """Send them: none is dropped, and the session goes on."""
    async with harness.admitted() as agent:
        ids = [await agent.wire.post("models.sync", agent.models_sync()) for _ in range(100)]
        answers = [await agent.wire.answer(one) for one in ids]
        refused = [answer for answer in answers if answer.error_code is not None]
        for answer in refused:
            code = answer.error_code
            require(code == CODE_OF_KIND["busy"], f"one was answered with error {code}")
            require("retry_after_ms" in answer.error_data, "busy comes without retry_after_ms")
        await agent.check_responsive()
        return f"{len(answers) - len(refused)} answered, {len(refused)} busy"


@CHECKS.check("CMD-5", "cancel names exactly one of id and job_id")
async def cancel(harness: ServerHarness) -> str:
    """Let the server's caller go away while a stream runs."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, request):
        agent.wire.handlers["cancel"] = lambda _: {"state": "cancelling"}
        await harness.stop(call)
        params = (await agent.wire.expect("cancel")).params
        named = [key for key in ("id", "job_id") if params.get(key) is not None]
        require(len(named) == 1, f"cancel came with {sorted(params)}")
        other = named == ["id"] and params["id"] != request.id
        require(not other, f"cancel names id {params.get('id')!r}, not {request.id!r}")
        await agent.wire.refuse(request, "cancelled")
        await agent.check_responsive()
        return f"cancel by {named[0]}"


@CHECKS.check("CMD-6", "the server reads on while its own requests wait")
async def reads_on(harness: ServerHarness) -> str:
    """Ask on while the server waits for an answer."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (_, request):
        # As many as may be in flight: a reader that waits for its own answer stops long before.
        for _ in range(limits.MAX_IN_FLIGHT):
            await agent.check_responsive()
        await agent.wire.refuse(request, "busy", retry_after_ms=1000)
        return f"{limits.MAX_IN_FLIGHT} requests answered while one of the server's waited"


class Reply:
    """The agent's side of one streamed request."""

    def __init__(self, agent: AgentConnection, request: Frame) -> None:
        self.agent = agent
        self.request = request
        # Of the next frame of data.
        self.seq = 0
        # Bytes of data so far, envelopes included: what credit counts.
        self.spent = 0

    async def item(self, text: str, *, seq: int | None = None) -> None:
        """One ``stream.data`` with one of Ollama's objects; another ``seq`` leaves a hole."""
        self.seq = self.seq if seq is None else seq
        await self._data(items=[{"t_us": 1000 + self.seq, "chunk": self.chunk(text)}])

    @staticmethod
    def chunk(text: str) -> JsonObject:
        """One of Ollama's objects."""
        return {"model": "conformance:1b", "response": text, "done": False}

    async def pieces(self, text: str) -> None:
        """A text in pieces, as credit comes."""
        for at in range(0, len(text), ITEM_BYTES):
            await self.credit()
            await self._data(part=text[at : at + ITEM_BYTES], more=at + ITEM_BYTES < len(text))

    async def _data(self, **body: Any) -> None:
        params = {"id": self.request.id, "seq": self.seq, **body}
        self.seq += 1
        self.spent += await self.agent.wire.notify("stream.data", params)

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

    @property
    def end(self) -> JsonObject:
        """How far the stream came, as every final says."""
        return {"next_seq": self.seq, "dropped": 0}

    async def final(self, **result: Any) -> None:
        """The answer; that of a generation unless another is given."""
        body = result or {"final": FINAL, "t_us": 9000}
        await self.agent.wire.reply(self.request, {**body, "stream": self.end})

    async def error(self, kind: str) -> None:
        """The answer, as an error."""
        await self.agent.wire.refuse(self.request, kind, stream=self.end)


@CHECKS.check("STREAM-1", "items in order reach the caller, a hole ends the call as failed")
async def holes(harness: ServerHarness) -> str:
    """Send a whole stream, and one with a hole, which must not pass for a whole one."""
    async with harness.admitted() as agent:
        async with harness.provoked(agent, "generate") as (call, request):
            reply = Reply(agent, request)
            for text in "abc":
                await reply.item(text)
            await reply.final()
            require(await harness.succeeded(call), "a whole stream was not taken for one")
        async with harness.provoked(agent, "generate") as (call, request):
            reply = Reply(agent, request)
            await reply.item("a")
            await reply.item("c", seq=2)
            await reply.final()
            taken = await harness.succeeded(call)
            require(not taken, "a stream with a hole passed for a whole one")
        await agent.check_responsive()
    return "whole: taken; with a hole: failed"


@CHECKS.check("STREAM-2", "an error as final is an error to the caller")
async def error_final(harness: ServerHarness) -> str:
    """End a stream with an error, after an item that came through."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        await reply.item("a")
        await reply.error("stream_incomplete")
        require(not await harness.succeeded(call), "an error passed for a whole answer")
    return "the caller got an error"


@CHECKS.check("STREAM-3", "a large item comes in pieces")
async def large_item(harness: ServerHarness) -> str:
    """Send 26 KiB of one of Ollama's objects."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        text = json.dumps({"t_us": 5, "chunk": reply.chunk("x" * 26_000)})
        await reply.pieces(text)
        await reply.final()
        require(await harness.succeeded(call), "an item in pieces was not taken")
    return f"{len(text)} bytes in pieces"


@CHECKS.check("STREAM-3", "a large result comes in pieces, and its sha256 is held against them")
async def large_result(harness: ServerHarness) -> str:
    """Send it with the right hash, and with a wrong one."""
    text = json.dumps({"embeddings": [[0.25] * 4000]})
    right = hashlib.sha256(text.encode()).hexdigest()
    async with harness.admitted() as agent:
        for digest in (right, "0" * 64):
            async with harness.provoked(agent, "embed") as (call, request):
                reply = Reply(agent, request)
                await reply.pieces(text)
                await reply.final(bytes=len(text), sha256=digest)
                taken = await harness.succeeded(call)
                require(taken or digest != right, "not taken")
                require(not taken or digest == right, "taken with a wrong sha256")
    return "right: taken; wrong: failed"


@CHECKS.check("CREDIT-1", "credit of streams and of the link comes back as it is read")
async def grants(harness: ServerHarness) -> str:
    """Send a stream of several windows."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        for _ in range(LONG_STREAM):
            await reply.credit()
            await reply.item("x" * ITEM_BYTES)
        await reply.final()
        require(await harness.succeeded(call), "a long stream was not taken")
        granted = agent.granted("stream.credit", request.id)
        require(granted <= reply.spent, f"{granted} bytes were granted to a stream of {reply.spent}")
        _link_is_bounded(agent)
        return f"{reply.spent} bytes sent, {granted} granted to the stream"


def _link_is_bounded(agent: AgentConnection) -> None:
    """Raise ``RuleBroken`` where the link was granted more than came."""
    granted, spent = agent.granted("link.credit"), agent.link_spent
    require(granted <= spent, f"{granted} bytes were granted to a link that {spent} came on")


@CHECKS.check("CREDIT-1", "syncs cost link credit, and it comes back")
async def link_grants(harness: ServerHarness) -> str:
    """Send more than one window of syncs."""
    async with harness.admitted() as agent:
        spent, wanted = 0, agent.link_credit * 3 // 2
        while spent < wanted:
            await agent.wire.until(lambda: agent.link_credit > spent, "no link.credit came")  # noqa: B023 - awaited
            sync = agent.models_sync(padding=ITEM_BYTES)
            # With its envelope, of about this size.
            spent += len(json.dumps(sync)) + 64
            await agent.wire.ask_ok("models.sync", sync)
        _link_is_bounded(agent)
        return f"{spent} bytes of syncs, {agent.granted('link.credit')} granted"


@CHECKS.check("CREDIT-2", "one frame may overdraw")
async def overdraw(harness: ServerHarness) -> str:
    """Send more than is left, while something is left."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, request):
        reply = Reply(agent, request)
        while (left := reply.balance) > ITEM_BYTES:
            await reply.item("x" * (min(left, 4 * ITEM_BYTES) - 512))
            # A server that grants as fast as this side sends would keep the balance up for ever.
            if reply.spent > agent.stream_credit:
                break
        await reply.item("x" * 3 * ITEM_BYTES)
        await reply.final()
        require(await harness.succeeded(call), "a stream that overdrew once was not taken")
        await agent.check_responsive()
        return f"{reply.spent} bytes against {agent.stream_credit}"


@CHECKS.check("CREDIT-4", "a stream that nobody ends does not hold up the rest")
async def others_go_on(harness: ServerHarness) -> str:
    """Fill a stream's window, and send syncs: they are answered and granted."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (_, request):
        reply = Reply(agent, request)
        while reply.spent <= agent.stream_credit:
            await reply.item("x" * ITEM_BYTES)
        for _ in range(20):
            await agent.wire.ask_ok("models.sync", agent.models_sync(padding=ITEM_BYTES))
        await agent.wire.until(lambda: agent.granted("link.credit") > 0, "no link.credit came")
        await reply.error("cancelled")
    return "20 syncs went past"


@CHECKS.check("CREDIT-4", "a stream whose caller does not read is granted what buffers hold, and no more")
async def unread(harness: ServerHarness) -> str:
    """Send as credit comes while nobody reads; the rest goes on."""
    caller = Caller()
    async with harness.admitted() as agent, harness.provoked(agent, "generate", caller) as (_, request):
        caller.pause()
        reply = Reply(agent, request)
        while await _granted(reply, harness.deadlines.unread_s):
            require(reply.spent < MOST_UNREAD_BYTES, f"{reply.spent} bytes were granted while nobody read")
            await reply.item("x" * 2 * ITEM_BYTES)
        await agent.check_responsive()
        sent = reply.spent
        caller.resume()
        # Whether it grants anything at all is CREDIT-1's.
        if agent.granted("stream.credit", request.id):
            await agent.wire.until(lambda: reply.balance > 0, "no stream.credit came once the caller read on")
        await reply.error("cancelled")
    return f"it stopped after {sent} bytes"


async def _granted(reply: Reply, within_s: float) -> bool:
    """Wait for credit of the stream; False where none comes. The link's comes at any rate."""
    wire = reply.agent.wire
    try:
        await wire.until(lambda: reply.balance > 0, "no stream.credit came", within_s=within_s)
    except RuleBroken:
        require(wire.closed is None, wire.how_closed())
        return False
    await wire.until(lambda: reply.agent.link_credit > reply.agent.link_spent, "no link.credit came")
    return True


@CHECKS.check("ALIVE-1", "a call fails when its session ends")
async def link_lost(harness: ServerHarness) -> str:
    """Drop the link under a call: it fails at once, and is not replayed at the next admission."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (call, _):
        # No close, no final: what the caller has so far is not the whole answer.
        agent.wire.abort()
        taken = await harness.succeeded(call)
        require(not taken, "a call whose session ended passed for a whole one")
    async with harness.admitted() as agent:
        await agent.wire.quiet_for(harness.deadlines.quiet_s)
        require(not agent.wire.of("generate"), "the call came again in the next session")
    return "failed, and was not replayed"


@CHECKS.check(
    "ALIVE-2", "streams.alive, where it comes, lists the live stream", takes_s=limits.STREAMS_ALIVE_INTERVAL_S
)
async def streams_alive(harness: ServerHarness) -> str:
    """Leave a stream open for a while; the list is optional."""
    async with harness.admitted() as agent, harness.provoked(agent, "generate") as (_, request):
        await agent.wire.quiet_for(harness.deadlines.streams_alive_s + harness.slack_s)
        listed = agent.wire.of("streams.alive")
        for frame in listed:
            # A list from before the stream cannot name it.
            if frame.at > request.at and request.id not in frame.params.get("ids", ()):
                raise RuleBroken(f"streams.alive listed {frame.params}, and not {request.id!r}")
        await Reply(agent, request).error("cancelled")
        return f"listed {len(listed)} times" if listed else "the server does not list streams"
