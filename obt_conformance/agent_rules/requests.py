"""[CMD], [STREAM], [CREDIT], [ALIVE]: what an agent answers and streams, and when."""

from __future__ import annotations

import json

from msgspec import Raw

from obt_agent.errors import AgentError
from obt_agent.protocol import limits
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.codec import convert
from obt_agent.protocol.errors import CODE_OF_KIND
from obt_agent.protocol.streams import StreamData
from obt_conformance.agent_harness import CHECKS, LONG, AgentHarness, KitSession
from obt_conformance.both_sides import each_answered_once
from obt_conformance.checks import RuleBroken, Untested, require
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.wire import RawSocket

# The largest frame of data, with its envelope.
FRAME_BYTES = limits.MAX_DATA_FRAME_BYTES + 1024


@CHECKS.check("CMD-1", "every request is answered exactly once")
async def answered_once(harness: AgentHarness) -> str:
    """Send good, unknown, wrong and streamed ones alike."""
    session = await harness.session()
    methods = ("list_models", "running_models", "agent_info", "x.conformance")
    ids = [await session.wire.post(method) for method in methods]
    ids.append(await session.wire.post("generate", {"model": 5}))
    # A stream's final is an answer like others.
    ids.append(await session.start("generate", harness.generate(4)))
    return await each_answered_once(session.wire, ids, harness.deadlines.quiet_s)


@CHECKS.check("CMD-2", "generate streams also with stream: false and a field that nobody knows")
async def always_streamed(harness: AgentHarness) -> str:
    """Ask Ollama for one whole answer; its chunks come as items all the same."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(4, stream=False, x_conformance=True))
    await session.finished(request_id)
    frames = len(session.data(request_id))
    require(frames, "nothing was streamed")
    return f"{frames} frames"


@CHECKS.check("CMD-3", "wrong parameters are answered -32602 with the field's path")
async def wrong_parameters(harness: AgentHarness) -> str:
    """Leave out a field, and send a wrong one deep in a plan."""
    session = await harness.session()
    messages = []
    wrong = {"job_id": "j", "plan": harness.plan(num_ctx="many")}
    for method, params, path in (
        ("generate", {"prompt": "x"}, "model"),
        ("run_benchmark", wrong, "params.plan.num_ctx"),
    ):
        answer = await session.wire.ask_refused("invalid_params", method, params)
        message = answer.error_message
        require(path in message, f"the message does not name {path}: {message}")
        messages.append(message)
    return "; ".join(messages)


@CHECKS.check("CMD-4", "a hundred requests at once are answered or refused as busy, and cancel is not")
async def many_requests(harness: AgentHarness) -> str:
    """Start streams that nobody reads, so that they stay in flight."""
    session = await harness.session()
    busy = CODE_OF_KIND["busy"]
    # Unread, or the first would have ended before the last is sent.
    ids = [await session.start("generate", harness.generate(), read=False) for _ in range(100)]

    def refusals() -> list[Frame]:
        return [answer for one in ids for answer in session.wire.answers(one) if answer.error_code == busy]

    await session.wire.until(lambda: bool(refusals()), "a hundred streams were all taken")
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    refused = refusals()
    timed = all("retry_after_ms" in answer.error_data for answer in refused)
    require(timed, "busy comes without retry_after_ms")
    for one in ids:
        await session.wire.ask_ok("cancel", {"id": one})
    for one in ids:
        await session.wire.answer(one, f"request {one} had no final")
    return f"{len(ids) - len(refused)} taken, {len(refused)} busy, all cancelled"


@CHECKS.check("CMD-5", "cancel takes one of id and job_id, and knows what was answered")
async def cancel(harness: AgentHarness) -> str:
    """Cancel what is in flight, answered, unknown, and both at once."""
    session = await harness.session()
    wire = session.wire
    async with harness.running(session) as request_id:
        await wire.ask_refused("invalid_params", "cancel", {"id": request_id, "job_id": "j"})
        await wire.ask_refused("invalid_params", "cancel")
        require(not wire.answers(request_id), "a cancel that was refused ended the request")
        states = [await _cancelled(wire, {"id": request_id})]
        final = await wire.answer(request_id, "the cancelled request had no final")
        cancelled = final.error_code == CODE_OF_KIND["cancelled"]
        require(cancelled, f"the cancelled request was answered with {final.message}")
    states += [await _cancelled(wire, {"id": request_id}), await _cancelled(wire, {"id": "never"})]
    require(states == ["cancelling", "answered", "unknown"], f"in flight, answered, unknown: {states}")
    return ", ".join(states)


async def _cancelled(wire: RawSocket, params: JsonObject) -> str:
    answer = await wire.ask("cancel", params)
    return str(answer.result.get("state", answer.message))


@CHECKS.check("CMD-6", "it reads on while a stream waits for credit")
async def reads_on(harness: AgentHarness) -> str:
    """Ask for more while a stream is granted nothing: control passes what waits."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        await session.until_streaming(request_id)
        for _ in range(10):
            await session.check_responsive()
    return "ten commands answered meanwhile"


@CHECKS.check("STREAM-1", "seq counts from 0 without holes, t_us does not go back, chunks are Ollama's")
async def items(harness: AgentHarness) -> str:
    """Read a generation of 200 tokens."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(200))
    await session.finished(request_id)
    seqs = [frame.params.get("seq") for frame in session.data(request_id)]
    require(seqs == list(range(len(seqs))), f"seq was {seqs}")
    items = [item for frame in session.data(request_id) for item in frame.params.get("items", ())]
    times = [item.get("t_us") for item in items]
    whole = items and all(isinstance(time, int) for time in times)
    require(whole and times == sorted(times), f"t_us was {times}")
    chunks = [item.get("chunk") for item in items]
    ollamas = all(isinstance(chunk, dict) and "model" in chunk for chunk in chunks)
    require(ollamas, "a chunk is not one of Ollama's objects")
    return f"{len(items)} items in {len(seqs)} frames"


@CHECKS.check("STREAM-2", "the final follows its data, and says how far the stream came; an error too")
async def finals(harness: AgentHarness) -> str:
    """Read one stream that ends by itself, one that is cancelled."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(20))
    answer = await session.finished(request_id)
    data, result = session.data(request_id), answer.result
    _check_position(result, data)
    require(
        result.get("final", {}).get("done") is True and isinstance(result.get("t_us"), int),
        f"the final is {json.dumps(result)}",
    )
    require(all(frame.at <= answer.at for frame in data), "data came after the final")
    async with harness.running(session) as running:
        await session.until_streaming(running)
    _check_position(session.wire.answers(running)[0].error_data, session.data(running))
    return f"next_seq {result['stream']['next_seq']}"


def _check_position(final: JsonObject, data: list[Frame]) -> None:
    stream = final.get("stream")
    position = stream.get("next_seq") if isinstance(stream, dict) else None
    require(position == len(data), f"the final says {stream}, and {len(data)} frames came")


@CHECKS.check("STREAM-3", "a result over 24 KiB comes in pieces, with size and sha256")
async def large_result(harness: AgentHarness) -> str:
    """Ask for the embeddings of many texts."""
    session = await harness.session()
    inputs = [f"text number {number}" for number in range(60)]
    request_id = await session.start("embed", {"model": harness.target.embed_model, "input": inputs})
    answer = await session.wire.answer(request_id, "embed was not answered")
    # A model that does not embed breaks no rule.
    if answer.error_code is not None:
        raise Untested(f"embed was refused ({answer.error_message}): give --embed-model")
    inline = answer.size > limits.INLINE_RESULT_BYTES + 1024
    require(not inline, f"the result came as one frame of {answer.size} bytes")
    if not session.data(request_id):
        raise Untested(f"the result has {answer.size} bytes: give --embed-model, one with longer vectors")
    return _joined(session.data(request_id), answer)


def _joined(data: list[Frame], answer: Frame) -> str:
    assembler = StreamAssembler()
    try:
        for frame in data:
            assembler.feed(convert(_raw(frame.params), StreamData))
        _, whole = assembler.finish(_raw(answer.result))
        vectors = json.loads(bytes(whole))["embeddings"]
    except (AgentError, ValueError, KeyError) as error:
        raise RuleBroken(f"the pieces do not make the result: {error}") from error
    return f"{len(vectors)} vectors, {len(bytes(whole))} bytes in {len(data)} pieces"


def _raw(value: object) -> Raw:
    return Raw(json.dumps(value).encode())


@CHECKS.check("CREDIT-1", "nothing comes on credit that was not granted, from streams, jobs and syncs")
async def never_overdrawn(harness: AgentHarness) -> str:
    """Open small windows for several streams."""
    session = await harness.session(fresh=True, stream_credit_bytes=4096, link_credit_bytes=16_384)
    ids = [await session.start("generate", harness.generate(400)) for _ in range(4)]
    for one in ids:
        await session.finished(one)
    session.ledger.check_clean()
    return f"{session.ledger.received} bytes, never without credit"


@CHECKS.check("CREDIT-2", "without the stream's credit data stops after one overdraw, and finals still come")
async def stream_window(harness: AgentHarness) -> str:
    """Grant nothing until the data has stopped, then some."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        # Credit of streams that nobody knows changes nothing.
        await session.wire.notify("stream.credit", {"id": "nobody", "bytes": 1 << 20})
        await _window_is_used(session, request_id)
        await session.wire.quiet_for(harness.deadlines.quiet_s)
        held = sum(frame.size for frame in session.data(request_id))
        most = session.ledger.stream
        require(held <= most + FRAME_BYTES, f"{held} bytes came on {most}")
        frames = len(session.data(request_id))
        await session.give_stream(request_id, 64 << 10)
        await session.wire.until(
            lambda: len(session.data(request_id)) > frames, "nothing came after stream.credit"
        )
    session.ledger.check_clean()
    return f"{held} bytes, then more after a grant"


async def _window_is_used(session: KitSession, request_id: object) -> None:
    await session.wire.until(
        lambda: sum(frame.size for frame in session.data(request_id)) >= session.ledger.stream,
        f"a generation of {LONG} tokens did not fill the stream's window",
    )


@CHECKS.check("CREDIT-2", "without the link's credit data stops, and answers and signs of life come")
async def link_window(harness: AgentHarness) -> str:
    """Grant streams, but not the link: control costs nothing."""
    session = await harness.session(fresh=True)
    await harness.synced(session)
    session.grant_link = False
    ids = [await session.start("generate", harness.generate(tokens)) for tokens in (0, 0, LONG)]
    await session.wire.until(lambda: session.ledger.link <= 0, "the link's window was not used up")
    frames = len(session.wire.of("stream.data"))
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    # One more may have been on its way when the balance ran out.
    more = len(session.wire.of("stream.data")) > frames + 1
    require(not more, "data came on although the link's credit was used up")
    await session.check_responsive()
    for one in ids:
        await session.wire.ask("cancel", {"id": one})
        await session.wire.answer(one, "a final waits for the link's credit")
    session.ledger.check_clean()
    # For the checks that go on with this session.
    session.grant_link = True
    await session.give_link(limits.LINK_CREDIT_BYTES * 2)
    return "data stopped; answers and finals came"


@CHECKS.check(
    "CREDIT-3", "a stream that is granted nothing for 60 s ends as stalled", takes_s=limits.STALLED_STREAM_S
)
async def stalled(harness: AgentHarness) -> str:
    """Grant nothing, and wait."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(LONG), read=False)
    await session.wire.until(
        lambda: bool(session.wire.answers(request_id)),
        "the stream was not ended",
        within_s=harness.deadlines.stalled_s + 2 * harness.deadlines.slack_s,
    )
    answer = session.wire.answers(request_id)[0]
    ended = answer.error_code == CODE_OF_KIND["timeout"] and "stalled" in json.dumps(answer.message)
    require(ended, f"it was answered with {answer.message}")
    return answer.error_message


@CHECKS.check("CREDIT-4", "a stream without credit holds up no other")
async def others_go_on(harness: AgentHarness) -> str:
    """Leave one unread, and read another."""
    session = await harness.session()
    async with harness.running(session) as stuck:
        await _window_is_used(session, stuck)
        await session.finished(await session.start("generate", harness.generate(500)))
        require(not session.wire.answers(stuck), "the stream without credit ended")
    return "another stream of 500 tokens came to its end"


@CHECKS.check("ALIVE-1", "nothing of a stream is replayed in the next session")
async def nothing_replayed(harness: AgentHarness) -> str:
    """Drop the link under a stream: requests end with their session."""
    session = await harness.session()
    await session.start("generate", harness.generate(LONG))
    await session.wire.expect("stream.data")
    # Without a close, as a cable that is pulled.
    session.wire.abort()
    await session.wire.until_closed()
    session = await harness.session()
    await harness.synced(session)
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    replayed = session.wire.of("stream.data")
    require(not replayed, "stream.data came for a stream of the session before")
    return "the next session began empty"


@CHECKS.check("ALIVE-2", "a stream that streams.alive leaves out twice is ended")
async def not_alive(harness: AgentHarness) -> str:
    """List one of two streams, twice: once is not enough."""
    session = await harness.session()
    gone = await session.start("generate", harness.generate(LONG), read=False)
    kept = await session.start("generate", harness.generate(LONG), read=False)
    await session.until_streaming(gone, kept)
    await session.wire.notify("streams.alive", {"ids": [kept]})
    await session.check_responsive()
    require(not session.wire.answers(gone), "it was ended at the first time")
    await session.wire.notify("streams.alive", {"ids": [kept]})
    await session.wire.answer(gone, "the stream was not ended")
    require(not session.wire.answers(kept), "the stream that was listed was ended too")
    await session.cancel(kept)
    return "ended at the second time, the other one kept"
