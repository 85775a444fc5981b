"""[STREAM], [CREDIT], [ALIVE]: what an agent streams, and when."""

from __future__ import annotations

import json

from msgspec import Raw

from obt_agent.errors import AgentError
from obt_agent.protocol import limits
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.codec import convert
from obt_agent.protocol.streams import StreamData
from obt_conformance.agent_harness import AgentHarness, KitSession
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.agent_rules.transport import check_responsive
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.wire import Frame

TIMEOUT = -32006
FRAME_BYTES = limits.MAX_DATA_FRAME_BYTES + 1024
"""The largest frame of data, with its envelope."""


@CHECKS.check("STREAM-1", "seq counts from 0 without holes, t_us does not go back, chunks are Ollama's")
async def items(harness: AgentHarness) -> str:
    """A generation of 200 tokens."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(options={"num_predict": 200}))
    await _good(session, request_id)
    seqs = [frame.params.get("seq") for frame in session.data(request_id)]
    if seqs != list(range(len(seqs))):
        raise RuleBroken(f"seq was {seqs}"[:200])
    items = [item for frame in session.data(request_id) for item in frame.params.get("items", ())]
    times = [item.get("t_us") for item in items]
    if not items or any(not isinstance(time, int) for time in times) or times != sorted(times):
        raise RuleBroken(f"t_us was {times}"[:200])
    if any(not isinstance(item.get("chunk"), dict) or "model" not in item["chunk"] for item in items):
        raise RuleBroken("a chunk is not one of Ollama's objects")
    return f"{len(items)} items in {len(seqs)} frames"


async def _good(session: KitSession, request_id: object) -> Frame:
    answer = await session.wire.answer(request_id, "the stream had no final")
    if answer.error_code is not None:
        raise RuleBroken(f"answered with error {answer.error_code} {answer.error_message}")
    return answer


@CHECKS.check("STREAM-2", "the final follows its data, and tells how far the stream came; an error too")
async def finals(harness: AgentHarness) -> str:
    """One that ends by itself, one that is cancelled."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(options={"num_predict": 20}))
    answer = await _good(session, request_id)
    result = answer.result
    _check_position(result.get("stream"), session.data(request_id))
    if result.get("final", {}).get("done") is not True or not isinstance(result.get("t_us"), int):
        raise RuleBroken(f"the final is {json.dumps(result)}"[:300])
    frames = session.wire.frames
    if session.data(request_id) and frames.index(answer) < frames.index(session.data(request_id)[-1]):
        raise RuleBroken("data came after the final")
    async with harness.running(session) as running:
        await session.wire.until(lambda: bool(session.data(running)), "nothing was streamed")
    error = session.wire.answers(running)[0].message.get("error", {})
    _check_position(error.get("data", {}).get("stream"), session.data(running))
    return f"next_seq {result['stream']['next_seq']}"


def _check_position(stream: object, data: list[Frame]) -> None:
    told = stream.get("next_seq") if isinstance(stream, dict) else None
    if told != len(data):
        raise RuleBroken(f"the final tells {stream}, and {len(data)} frames came")


@CHECKS.check("STREAM-3", "a result over 24 KiB comes in pieces, with size and sha256")
async def large_result(harness: AgentHarness) -> str:
    """The embeddings of many texts."""
    session = await harness.session()
    inputs = [f"text number {number}" for number in range(60)]
    request_id = await session.start("embed", {"model": harness.target.embed_model, "input": inputs})
    answer = await session.wire.answer(request_id, "embed was not answered")
    if answer.error_code is not None:
        raise Untested(f"embed was refused ({answer.error_message}): give --embed-model")
    if answer.size > limits.INLINE_RESULT_BYTES + 1024:
        raise RuleBroken(f"the result came as one frame of {answer.size} bytes")
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
    """Small windows, many streams."""
    session = await harness.session(fresh=True, stream_credit_bytes=4096, link_credit_bytes=16_384)
    session.ledger.stream = 4096
    ids = [await session.start("generate", harness.generate(options={"num_predict": 400})) for _ in range(4)]
    for one in ids:
        await _good(session, one)
    session.ledger.check_clean()
    return f"{session.ledger.received} bytes, never without credit"


@CHECKS.check("CREDIT-2", "without the stream's credit data stops after one overdraw, and finals still come")
async def stream_window(harness: AgentHarness) -> str:
    """Credit of streams that nobody knows changes nothing."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        await session.wire.notify("stream.credit", {"id": "nobody", "bytes": 1 << 20})
        await _window_is_used(session, request_id)
        await session.wire.quiet_for(harness.deadlines.quiet_s)
        held = sum(frame.size for frame in session.data(request_id))
        if held > session.ledger.stream + FRAME_BYTES:
            raise RuleBroken(f"{held} bytes came on {session.ledger.stream}")
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
        "a generation of 4000 tokens did not fill the stream's window",
    )


@CHECKS.check("CREDIT-2", "without the link's credit data stops, and answers and signs of life come")
async def link_window(harness: AgentHarness) -> str:
    """Control costs nothing."""
    session = await harness.session(fresh=True)
    await harness.synced(session)
    session.grant_link = False
    ids = [await session.start("generate", harness.generate(), read=True) for _ in range(2)]
    long = await session.start("generate", harness.generate(options={"num_predict": 4000}))
    await session.wire.until(lambda: session.ledger.link <= 0, "the link's window was not used up")
    frames = len(session.wire.of("stream.data"))
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    if len(session.wire.of("stream.data")) > frames + 1:
        raise RuleBroken("data came on although the link's credit was used up")
    await check_responsive(session)
    for one in [*ids, long]:
        await session.wire.ask("cancel", {"id": one})
        await session.wire.answer(one, "a final waits for the link's credit")
    session.ledger.check_clean()
    session.grant_link = True
    await session.give_link(limits.LINK_CREDIT_BYTES * 2)
    return "data stopped; answers and finals came"


@CHECKS.check(
    "CREDIT-3", "a stream that is granted nothing for 60 s ends as stalled", takes_s=limits.STALLED_STREAM_S
)
async def stalled(harness: AgentHarness) -> str:
    """The others go on."""
    session = await harness.session()
    request_id = await session.start("generate", harness.generate(options={"num_predict": 4000}), read=False)
    await session.wire.until(
        lambda: bool(session.wire.answers(request_id)),
        "the stream was not ended",
        within_s=harness.deadlines.stalled_s + 2 * harness.deadlines.slack_s,
    )
    answer = session.wire.answers(request_id)[0]
    if answer.error_code != TIMEOUT or "stalled" not in json.dumps(answer.message):
        raise RuleBroken(f"it was answered with {answer.message}"[:300])
    return answer.error_message


@CHECKS.check("CREDIT-4", "a stream without credit holds up no other")
async def others_go_on(harness: AgentHarness) -> str:
    """One is not read at all."""
    session = await harness.session()
    async with harness.running(session) as stuck:
        await _window_is_used(session, stuck)
        request_id = await session.start("generate", harness.generate(options={"num_predict": 500}))
        await _good(session, request_id)
        if session.wire.answers(stuck):
            raise RuleBroken("the stream without credit ended")
    return "another stream of 500 tokens came to its end"


@CHECKS.check("ALIVE-1", "nothing of a stream is replayed in the next session")
async def nothing_replayed(harness: AgentHarness) -> str:
    """Requests end with their session."""
    session = await harness.session()
    await session.start("generate", harness.generate(options={"num_predict": 4000}))
    await session.wire.expect("stream.data")
    session.wire.abort()
    await session.wire.until_closed()
    session = await harness.session()
    await harness.synced(session)
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    if session.wire.of("stream.data"):
        raise RuleBroken("stream.data came for a stream of the session before")
    return "the next session began empty"


@CHECKS.check("ALIVE-2", "a stream that streams.alive leaves out twice is ended")
async def not_alive(harness: AgentHarness) -> str:
    """Once is not enough."""
    session = await harness.session()
    gone = await session.start("generate", harness.generate(options={"num_predict": 4000}), read=False)
    kept = await session.start("generate", harness.generate(options={"num_predict": 4000}), read=False)
    await session.wire.until(lambda: bool(session.data(gone) and session.data(kept)), "nothing was streamed")
    await session.wire.notify("streams.alive", {"ids": [kept]})
    await check_responsive(session)
    if session.wire.answers(gone):
        raise RuleBroken("it was ended at the first time")
    await session.wire.notify("streams.alive", {"ids": [kept]})
    await session.wire.answer(gone, "the stream was not ended")
    if session.wire.answers(kept):
        raise RuleBroken("the stream that was listed was ended too")
    await session.cancel(kept)
    return "ended at the second time, the other one kept"
