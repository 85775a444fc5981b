"""[TRANSPORT]: checks that are the same whichever side is under test, and what other checks share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

from obt_agent.protocol import limits
from obt_agent.protocol.limits import Close
from obt_conformance import agent_harness, server_harness
from obt_conformance.agent_harness import AgentHarness
from obt_conformance.checks import require
from obt_conformance.server_harness import ServerHarness
from obt_conformance.wire import RawSocket

Harness = AgentHarness | ServerHarness
Run = Callable[[Harness], Awaitable[str]]


async def each_answered_once(wire: RawSocket, ids: Sequence[int | str], quiet_s: float) -> str:
    """Wait for the answer to each request, and a while longer for a second one.

    Raises:
        RuleBroken: one was not answered, or more than once.
    """
    for one in ids:
        await wire.answer(one)
    # A second answer may come late.
    await wire.quiet_for(quiet_s)
    counts = {one: len(wire.answers(one)) for one in ids}
    require(set(counts.values()) == {1}, f"answers by id: {counts}")
    return f"{len(ids)} requests, {len(ids)} answers"


async def longest_pause(wire: RawSocket, watched_s: float, most_s: Callable[[], float]) -> str:
    """Listen for ``watched_s`` or longer; nothing may be silent for longer than ``most_s``, asked at the end.

    Raises:
        RuleBroken: the socket ended, or a pause was longer.
    """
    started = time.monotonic()
    await wire.quiet_for(watched_s)
    # On a busy machine more is allowed than was listened for: one that says nothing at all would pass.
    while (left := started + most_s() + 0.5 - time.monotonic()) > 0 and wire.closed is None:
        await wire.quiet_for(left)
    require(wire.closed is None, f"a side that says link.alive was dropped: {wire.how_closed()}")
    # The time until the first frame counts, and that after the last one.
    times = [started, *(frame.at for frame in wire.frames if frame.at > started), time.monotonic()]
    longest = max(after - before for before, after in itertools.pairwise(times))
    require(longest <= most_s(), f"nothing came for {longest:.1f} s")
    return f"the longest pause was {longest:.1f} s"


def _check(rule: str, title: str) -> Callable[[Run], Run]:
    """Enter a coroutine function as a check of either side."""

    def enter(run: Run) -> Run:
        agent_harness.CHECKS.check(rule, title)(run)
        server_harness.CHECKS.check(rule, title)(run)
        return run

    return enter


def _padded(size: int) -> str:
    """A notification of so many bytes."""
    start, end = '{"jsonrpc":"2.0","method":"x.conformance","params":{"x":"', '"}}'
    return start + "x" * (size - len(start + end)) + end


@_check("TRANSPORT-2", "a frame of nearly 1 MiB and 64 levels is taken")
async def large_frame(harness: Harness) -> str:
    """Send the largest frame that the other side says it takes."""
    async with harness.admitted() as session:
        most = session.max_frame_bytes
        least = limits.MIN_FRAME_BYTES
        require(most >= least, f"limits.max_frame_bytes is {most}, below {least}")
        await session.wire.send(_padded(most))
        # The frame and its params are two levels themselves.
        deep = "[" * (limits.MAX_DEPTH - 2) + "]" * (limits.MAX_DEPTH - 2)
        await session.wire.send(f'{{"jsonrpc":"2.0","method":"x.conformance","params":{{"x":{deep}}}}}')
        await session.check_responsive()
        refused = any(frame.error_code is not None for frame in session.wire.frames)
        require(not refused, "it was answered with an error")
    return f"{most} bytes"


@_check("TRANSPORT-2", "a batch and a frame 65 levels deep are refused")
async def batch_and_depth(harness: Harness) -> str:
    """Send both; neither is a message, and the session goes on."""
    async with harness.admitted() as session:
        method, _ = session.good_request()
        await session.wire.error_after(f'[{{"jsonrpc":"2.0","id":1,"method":"{method}"}}]', "a batch")
        deep = "[" * limits.MAX_DEPTH + "]" * limits.MAX_DEPTH
        frame = f'{{"jsonrpc":"2.0","id":900,"method":"{method}","params":{{"x":{deep}}}}}'
        await session.wire.error_after(frame, "a frame that is too deep")
        await session.check_responsive()
    return "each was answered with an error"


@_check("TRANSPORT-3", 'ids come back as they went, and 1 is not "1"')
async def ids(harness: Harness) -> str:
    """Send integers and strings, at their limits."""
    async with harness.admitted() as session:
        tried = [1, "1", 0, limits.MAX_ID, "a" * limits.MAX_ID_CHARS]
        # All at once: an answer to 1 must not pass for the one to "1".
        for one in tried:
            method, params = session.good_request()
            await session.wire.post(method, params, one)
        for one in tried:
            answer = await session.wire.answer(one)
            code = answer.error_code
            require(code is None, f"id {one!r:.20} was answered with error {code}")
    return f"{len(tried)} ids"


@_check("TRANSPORT-4", "unknown methods are answered -32601, unknown fields and notifications ignored")
async def unknown(harness: Harness) -> str:
    """Send what a newer version might."""
    async with harness.admitted(x_conformance={"new": True}) as session:
        await session.wire.ask_refused("unknown_method", "x.conformance", {"new": True})
        await session.wire.notify("x.conformance")
        await session.wire.send('{"jsonrpc":"2.0","id":"nobody-asks","result":{}}')
        method, params = session.good_request()
        await session.wire.ask_ok(method, {**params, "x_conformance": {"new": True}})
    return "-32601; the rest ignored"


@_check("TRANSPORT-5", "what is no JSON is answered with an error whose id is null")
async def bad_json(harness: Harness) -> str:
    """Send a frame that breaks off; the session goes on."""
    async with harness.admitted() as session:
        # The id can be seen, and yet not be relied on.
        answer = await session.wire.error_after('{"jsonrpc": "2.0", "id": 5, ', "broken JSON")
        require(answer.id is None, f"the error's id is {answer.id!r}")
        await session.check_responsive()
    return f"{answer.error_code}"


@_check("TRANSPORT-5", "ten bad frames within a minute close 4400")
async def ten_bad_frames(harness: Harness) -> str:
    """Send nine, which do not, and the tenth."""
    async with harness.admitted() as session:
        for number in range(limits.BAD_FRAMES_PER_MINUTE - 1):
            # One by one: each is answered, and each counts.
            await session.wire.error_after("no json", f"bad frame {number + 1}")
        await session.check_responsive()
        await session.wire.send("no json")
        return await session.wire.closed_with(Close.PROTOCOL_ERROR)


@_check("TRANSPORT-5", "a binary frame closes 1003")
async def binary(harness: Harness) -> str:
    """Send a good message as a binary frame."""
    async with harness.admitted() as session:
        await session.wire.send(b'{"jsonrpc":"2.0","method":"link.alive","params":{}}')
        return await session.wire.closed_with(Close.UNSUPPORTED_DATA)


@_check("TRANSPORT-5", "a frame over the limit closes 1009")
async def too_large(harness: Harness) -> str:
    """Send a frame that is larger than the other side says it takes."""
    async with harness.admitted() as session:
        # Its own limit counts, where it names a smaller one than the protocol's.
        await session.wire.send(_padded(session.max_frame_bytes + 64))
        return await session.wire.closed_with(Close.TOO_BIG)
