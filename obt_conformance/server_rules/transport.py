"""[TRANSPORT]: the upgrade, frames, ids, and what is no message."""

from __future__ import annotations

import json

from obt_agent.protocol import limits
from obt_agent.protocol.limits import SUBPROTOCOL, Close
from obt_conformance.both_ways import check_close_code
from obt_conformance.checks import RuleBroken
from obt_conformance.dialling import UpgradeRefused, dial, socket_url
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules.registry import CHECKS
from obt_conformance.wire import Frame, RawSocket

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602


@CHECKS.check("TRANSPORT-1", "the upgrade answers with obt.v1 and no extension")
async def subprotocol(harness: ServerHarness) -> str:
    """What the handshake settled."""
    async with harness.socket() as wire:
        if wire.socket.subprotocol != SUBPROTOCOL:
            raise RuleBroken(f"the subprotocol is {wire.socket.subprotocol!r}")
        if wire.socket.protocol.extensions:
            raise RuleBroken("an extension was switched on that was not offered")
    return "obt.v1"


@CHECKS.check("TRANSPORT-1", "a wrong or missing credential is refused")
async def credential_needed(harness: ServerHarness) -> str:
    """Before the upgrade, or with 4401."""
    return ", ".join([await _refused(harness, token) for token in (None, "obt-conformance-wrong")])


async def _refused(harness: ServerHarness, token: str | None) -> str:
    try:
        async with dial(socket_url(harness.url), token, answer_within_s=harness.deadlines.answer_s) as wire:
            await wire.post("agent.hello", harness.hello())
            closed = await wire.until_closed()
            if closed.code != Close.CREDENTIAL_REFUSED:
                raise RuleBroken(f"closed with {closed.code}, not {Close.CREDENTIAL_REFUSED}")
            return str(closed.code)
    except UpgradeRefused as refusal:
        if refusal.status not in (401, 403, 429):
            raise RuleBroken(f"answered with {refusal}, not 401 or 403") from refusal
        return str(refusal)


@CHECKS.check("TRANSPORT-2", "a frame of nearly 1 MiB and 64 levels is taken")
async def large_frame(harness: ServerHarness) -> str:
    """The largest that every server must take is what it names, at least 64 KiB."""
    async with harness.agent() as agent:
        most = int(agent.admission.get("limits", {}).get("max_frame_bytes", limits.MAX_FRAME_BYTES))
        if most < limits.MIN_FRAME_BYTES:
            raise RuleBroken(f"limits.max_frame_bytes is {most}, below {limits.MIN_FRAME_BYTES}")
        frame = json.dumps({"jsonrpc": "2.0", "method": "x.conformance", "params": {"x": ""}})
        padded = frame.replace('""', '"' + "x" * (most - len(frame)) + '"')
        await agent.wire.send(padded)
        deep = "[" * (limits.MAX_DEPTH - 2) + "]" * (limits.MAX_DEPTH - 2)
        await agent.wire.send(f'{{"jsonrpc":"2.0","method":"x.conformance","params":{{"x":{deep}}}}}')
        await agent.check_responsive()
        refused = [found for found in agent.wire.frames if found.error_code is not None]
        if refused:
            raise RuleBroken(f"answered with error {refused[0].error_code}")
    return f"{len(padded)} bytes"


@CHECKS.check("TRANSPORT-2", "a batch and a frame 65 levels deep are refused")
async def batch_and_depth(harness: ServerHarness) -> str:
    """Neither is a message."""
    async with harness.agent() as agent:
        await _answered_with_error(agent.wire, '[{"jsonrpc":"2.0","id":1,"method":"x"}]', "a batch")
        deep = "[" * limits.MAX_DEPTH + "]" * limits.MAX_DEPTH
        frame = f'{{"jsonrpc":"2.0","id":9,"method":"models.sync","params":{{"x":{deep}}}}}'
        await _answered_with_error(agent.wire, frame, "a frame that is too deep")
        await agent.check_responsive()
    return "each was answered with an error"


async def _answered_with_error(wire: RawSocket, text: str, what: str) -> Frame:
    before = len(wire.frames)

    def errors() -> list[Frame]:
        return [frame for frame in wire.frames[before:] if frame.error_code is not None]

    await wire.send(text)
    await wire.until(lambda: bool(errors()), f"{what} was not answered with an error")
    return errors()[0]


@CHECKS.check("TRANSPORT-3", 'ids come back as they went, and 1 is not "1"')
async def ids(harness: ServerHarness) -> str:
    """Integers and strings, at their limits."""
    async with harness.agent() as agent:
        tried = [1, "1", 0, limits.MAX_ID, "a" * limits.MAX_ID_CHARS]
        for one in tried:
            await agent.wire.post("models.sync", agent.models_sync(), one)
        for one in tried:
            answer = await agent.wire.answer(one, f"the request with id {one!r:.20} was not answered")
            if answer.error_code is not None:
                raise RuleBroken(f"id {one!r:.20} was answered with error {answer.error_code}")
    return f"{len(tried)} ids"


@CHECKS.check("TRANSPORT-3", "a request with an id in flight does not disturb the first")
async def duplicate(harness: ServerHarness) -> str:
    """The second is refused, or comes after the first's answer."""
    async with harness.agent() as agent:
        for _ in range(2):
            await agent.wire.post("models.sync", agent.models_sync(), "twice")
        await agent.wire.until(
            lambda: len(agent.wire.answers("twice")) > 1, "two requests of one id were not both answered"
        )
        codes = [answer.error_code for answer in agent.wire.answers("twice")]
        if codes.count(None) == 0 or any(code not in (None, INVALID_REQUEST) for code in codes):
            raise RuleBroken(f"answered with {codes}")
        await agent.check_responsive()
    return "refused" if INVALID_REQUEST in codes else "answered before the second was read"


@CHECKS.check("TRANSPORT-4", "unknown methods are answered -32601, unknown fields and notifications ignored")
async def unknown(harness: ServerHarness) -> str:
    """A newer agent may say more."""
    async with harness.agent(x_conformance={"new": True}) as agent:
        answer = await agent.wire.ask("x.conformance", {"new": True})
        if answer.error_code != UNKNOWN_METHOD:
            raise RuleBroken(f"an unknown method was answered with {answer.message}"[:200])
        await agent.wire.notify("x.conformance")
        await agent.wire.send('{"jsonrpc":"2.0","id":"nobody-asked","result":{}}')
        sync = agent.models_sync(x_conformance={"new": True})
        if (await agent.wire.ask("models.sync", sync)).error_code is not None:
            raise RuleBroken("an unknown field of models.sync was refused")
    return "-32601; the rest ignored"


@CHECKS.check("TRANSPORT-4", "parameters that are no object are refused")
async def parameters_are_objects(harness: ServerHarness) -> str:
    """By position, as other JSON-RPC allows, they are not."""
    async with harness.agent() as agent:
        await agent.wire.send('{"jsonrpc":"2.0","id":"listed","method":"models.sync","params":[1]}')
        answer = await agent.wire.answer("listed", "a request with parameters by position was not answered")
        if answer.error_code not in (INVALID_PARAMS, INVALID_REQUEST):
            raise RuleBroken(f"answered with {answer.message}"[:200])
        await agent.check_responsive()
    return f"{answer.error_code}"


@CHECKS.check("TRANSPORT-5", "what is no JSON is answered with an error whose id is null")
async def bad_json(harness: ServerHarness) -> str:
    """And the session goes on."""
    async with harness.agent() as agent:
        answer = await _answered_with_error(agent.wire, '{"jsonrpc": "2.0", "id": 5, ', "broken JSON")
        if answer.id is not None:
            raise RuleBroken(f"the error's id is {answer.id!r}")
        await agent.check_responsive()
    return f"{answer.error_code}"


@CHECKS.check("TRANSPORT-5", "ten bad frames within a minute close 4400")
async def ten_bad_frames(harness: ServerHarness) -> str:
    """Nine do not."""
    async with harness.agent() as agent:
        for number in range(limits.BAD_FRAMES_PER_MINUTE - 1):
            await _answered_with_error(agent.wire, "no json", f"bad frame {number + 1}")
        await agent.check_responsive()
        await agent.wire.send("no json")
        return check_close_code(await agent.wire.until_closed(), Close.PROTOCOL_ERROR)


@CHECKS.check("TRANSPORT-5", "a binary frame closes 1003")
async def binary(harness: ServerHarness) -> str:
    """Even when it holds a message."""
    async with harness.agent() as agent:
        await agent.wire.send(b'{"jsonrpc":"2.0","method":"link.alive","params":{}}')
        return check_close_code(await agent.wire.until_closed(), Close.UNSUPPORTED_DATA)


@CHECKS.check("TRANSPORT-5", "a frame over the limit closes 1009")
async def too_large(harness: ServerHarness) -> str:
    """The server's own limit counts."""
    async with harness.agent() as agent:
        most = int(agent.admission.get("limits", {}).get("max_frame_bytes", limits.MAX_FRAME_BYTES))
        text = json.dumps({"jsonrpc": "2.0", "method": "x.conformance", "params": {"x": "x" * most}})
        await agent.wire.send(text)
        return check_close_code(await agent.wire.until_closed(), Close.TOO_BIG)
