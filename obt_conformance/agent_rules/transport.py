"""[TRANSPORT]: how an agent dials, and what it makes of frames."""

from __future__ import annotations

import json

from obt_agent.protocol import limits
from obt_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL, Close
from obt_conformance.agent_harness import LONGEST_DELAYS, AgentHarness, KitSession
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.both_ways import check_close_code
from obt_conformance.checks import RuleBroken
from obt_conformance.wire import Frame

INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602


async def check_responsive(session: KitSession) -> None:
    """A command is still answered.

    Raises:
        RuleBroken: it is not.
    """
    answer = await session.wire.ask("running_models")
    if answer.error_code is not None:
        raise RuleBroken(f"running_models was then answered with error {answer.error_code}")


async def error_after(session: KitSession, text: str, what: str) -> Frame:
    """The error that a frame is answered with.

    Raises:
        RuleBroken: it is answered with none.
    """
    before = len(session.wire.frames)

    def errors() -> list[Frame]:
        return [frame for frame in session.wire.frames[before:] if frame.error_code is not None]

    await session.wire.send(text)
    await session.wire.until(lambda: bool(errors()), f"{what} was not answered with an error")
    return errors()[0]


@CHECKS.check("TRANSPORT-1", "it dials the path with obt.v1, a bearer credential and no extension")
async def upgrade(harness: AgentHarness) -> str:
    """What it asks for."""
    await harness.session()
    dial = harness.listener.dials[-1]
    if dial.path != CONNECT_PATH:
        raise RuleBroken(f"it dialled {dial.path}")
    offered = [name.strip() for name in dial.headers.get("sec-websocket-protocol", "").split(",")]
    if SUBPROTOCOL not in offered:
        raise RuleBroken(f"the subprotocols are {offered}")
    if "sec-websocket-extensions" in dial.headers:
        raise RuleBroken(f"it offers {dial.headers['sec-websocket-extensions']}")
    scheme, _, credential = dial.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise RuleBroken("there is no Authorization: Bearer")
    return f"{dial.path}, {SUBPROTOCOL}"


@CHECKS.check("TRANSPORT-1", "it follows no redirect", takes_s=LONGEST_DELAYS * limits.RECONNECT_MAX_S)
async def redirect(harness: AgentHarness) -> str:
    """It dials the same address again."""
    await harness.end()
    harness.refuse_next(302, ("Location", f"http://127.0.0.1:{harness.listener.port}/elsewhere"))
    await harness.session()
    if any(dial.path != CONNECT_PATH for dial in harness.listener.dials):
        raise RuleBroken("it went where the redirect pointed")
    return "it dialled the same path again"


@CHECKS.check("TRANSPORT-2", "a frame of nearly 1 MiB and 64 levels is taken")
async def large_frame(harness: AgentHarness) -> str:
    """As large as its hello says."""
    session = await harness.session()
    named = session.hello.params.get("limits", {}).get("max_frame_bytes", limits.MAX_FRAME_BYTES)
    if named < limits.MIN_FRAME_BYTES:
        raise RuleBroken(f"limits.max_frame_bytes is {named}, below {limits.MIN_FRAME_BYTES}")
    frame = json.dumps({"jsonrpc": "2.0", "method": "x.conformance", "params": {"x": ""}})
    await session.wire.send(frame.replace('""', '"' + "x" * (named - len(frame)) + '"'))
    deep = "[" * (limits.MAX_DEPTH - 2) + "]" * (limits.MAX_DEPTH - 2)
    await session.wire.send(f'{{"jsonrpc":"2.0","method":"x.conformance","params":{{"x":{deep}}}}}')
    before = len(session.wire.frames)
    await check_responsive(session)
    if any(frame.error_code is not None for frame in session.wire.frames[before:]):
        raise RuleBroken("it was answered with an error")
    return f"{named} bytes"


@CHECKS.check("TRANSPORT-2", "a batch and a frame 65 levels deep are refused")
async def batch_and_depth(harness: AgentHarness) -> str:
    """Neither is a message."""
    session = await harness.session()
    await error_after(session, '[{"jsonrpc":"2.0","id":1,"method":"list_models"}]', "a batch")
    deep = "[" * limits.MAX_DEPTH + "]" * limits.MAX_DEPTH
    frame = f'{{"jsonrpc":"2.0","id":900,"method":"list_models","params":{{"x":{deep}}}}}'
    await error_after(session, frame, "a frame that is too deep")
    await check_responsive(session)
    return "each was answered with an error"


@CHECKS.check("TRANSPORT-3", 'ids come back as they went, and 1 is not "1"')
async def ids(harness: AgentHarness) -> str:
    """Integers and strings, at their limits."""
    session = await harness.session(fresh=True)
    tried = [1, "1", 0, limits.MAX_ID, "a" * limits.MAX_ID_CHARS]
    for one in tried:
        await session.wire.post("running_models", {}, one)
    for one in tried:
        answer = await session.wire.answer(one, f"the request with id {one!r:.20} was not answered")
        if answer.error_code is not None:
            raise RuleBroken(f"id {one!r:.20} was answered with error {answer.error_code}")
    return f"{len(tried)} ids"


@CHECKS.check("TRANSPORT-3", "a request with an id in flight is answered -32600, and the first goes on")
async def duplicate(harness: AgentHarness) -> str:
    """The first has its own final later."""
    session = await harness.session()
    async with harness.running(session) as request_id:
        await session.wire.post("running_models", {}, request_id)
        answer = await session.wire.answer(request_id, "the second request was not answered")
        if answer.error_code != INVALID_REQUEST:
            raise RuleBroken(f"the second request was answered with {answer.message}"[:200])
        await session.wire.ask("cancel", {"id": request_id})
        await session.wire.until(
            lambda: len(session.wire.answers(request_id)) > 1, "the first request had no final"
        )
    return "-32600, then the first one's final"


@CHECKS.check("TRANSPORT-4", "unknown methods are answered -32601, unknown fields and notifications ignored")
async def unknown(harness: AgentHarness) -> str:
    """A newer server may say more."""
    session = await harness.session()
    answer = await session.wire.ask("x.conformance", {"new": True})
    if answer.error_code != UNKNOWN_METHOD:
        raise RuleBroken(f"an unknown method was answered with {answer.message}"[:200])
    await session.wire.notify("x.conformance")
    await session.wire.send('{"jsonrpc":"2.0","id":"nobody-asked","result":{}}')
    listed = await session.wire.ask("list_models", {"x_conformance": True})
    if listed.error_code is not None:
        raise RuleBroken("an unknown field of list_models was refused")
    return "-32601; the rest ignored"


@CHECKS.check("TRANSPORT-5", "what is no JSON is answered with an error whose id is null")
async def bad_json(harness: AgentHarness) -> str:
    """And the session goes on."""
    session = await harness.session()
    answer = await error_after(session, '{"jsonrpc": "2.0", "id": 5, ', "broken JSON")
    if answer.id is not None:
        raise RuleBroken(f"the error's id is {answer.id!r}")
    await check_responsive(session)
    return f"{answer.error_code}"


@CHECKS.check("TRANSPORT-5", "ten bad frames within a minute close 4400")
async def ten_bad_frames(harness: AgentHarness) -> str:
    """Nine do not."""
    session = await harness.session(fresh=True)
    for number in range(limits.BAD_FRAMES_PER_MINUTE - 1):
        await error_after(session, "no json", f"bad frame {number + 1}")
    await check_responsive(session)
    await session.wire.send("no json")
    return check_close_code(await session.wire.until_closed(), Close.PROTOCOL_ERROR)


@CHECKS.check("TRANSPORT-5", "a binary frame closes 1003")
async def binary(harness: AgentHarness) -> str:
    """Even when it holds a message."""
    session = await harness.session()
    await session.wire.send(b'{"jsonrpc":"2.0","method":"link.alive","params":{}}')
    return check_close_code(await session.wire.until_closed(), Close.UNSUPPORTED_DATA)


@CHECKS.check("TRANSPORT-5", "a frame over the limit closes 1009")
async def too_large(harness: AgentHarness) -> str:
    """Its own limit counts."""
    session = await harness.session()
    most = session.hello.params.get("limits", {}).get("max_frame_bytes", limits.MAX_FRAME_BYTES)
    text = json.dumps({"jsonrpc": "2.0", "method": "x.conformance", "params": {"x": "x" * most}})
    await session.wire.send(text)
    return check_close_code(await session.wire.until_closed(), Close.TOO_BIG)
