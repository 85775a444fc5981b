"""[HELLO], [ROTATE]: how an agent introduces itself, and with what credential."""

from __future__ import annotations

import uuid

import msgspec

from obt_agent.protocol import limits
from obt_agent.protocol.admission import HelloParams
from obt_conformance.agent_harness import LONGEST_DELAYS, SYNCS, AgentHarness, sha256
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.checks import RuleBroken


@CHECKS.check("HELLO-1", "agent.hello comes first, is small, and nothing follows before its answer")
async def hello_first(harness: AgentHarness) -> str:
    """A server that takes its time."""
    await harness.end()
    wire, hello = await harness.greeted()
    if wire.frames[0] is not hello:
        raise RuleBroken(f"{wire.frames[0].method} came first")
    if hello.size > limits.MAX_HELLO_BYTES:
        raise RuleBroken(f"the hello has {hello.size} bytes")
    await wire.quiet_for(harness.deadlines.quiet_s)
    early = [frame.method for frame in wire.frames[1:] if frame.method != "link.alive"]
    if early:
        raise RuleBroken(f"{early[0]} came before the answer")
    await harness.admit(wire, hello)
    return f"{hello.size} bytes"


@CHECKS.check("HELLO-2", "the shortest answer admits it, and models, hardware and jobs are synced")
async def shortest_answer(harness: AgentHarness) -> str:
    """Protocol and session; the rest has defaults."""
    session = await harness.session()
    try:
        msgspec.convert(session.hello.params, HelloParams)
    except msgspec.ValidationError as error:
        raise RuleBroken(f"agent.hello: {error}") from error
    await harness.synced(session)
    before = {method: len(session.wire.of(method)) for method in SYNCS}
    await session.wire.ask("state.request", {"kinds": ["models", "hardware", "jobs"]})
    for method in SYNCS:
        await session.wire.expect(method, count=before[method] + 1)
    session.ledger.check_clean()
    return "three states, and three again when asked for"


@CHECKS.check("HELLO-3", "after 4426 it comes back", takes_s=LONGEST_DELAYS * limits.RECONNECT_MAX_S)
async def no_common_version(harness: AgentHarness) -> str:
    """At the longest delay."""
    await harness.end()
    wire, _ = await harness.greeted()
    await wire.close(limits.Close.NO_COMMON_VERSION)
    await harness.session()
    return "it dialled again"


@CHECKS.check("HELLO-4", "its id is a UUID, and the same at every dial")
async def one_id(harness: AgentHarness) -> str:
    """An identity for ever."""
    first = await _again(harness, "id")
    try:
        uuid.UUID(first)
    except ValueError:
        raise RuleBroken(f"agent.id is {first!r}") from None
    return first


@CHECKS.check("HELLO-5", "its instance is the same at every dial of one process")
async def one_instance(harness: AgentHarness) -> str:
    """So that a redial is told from a second process."""
    return await _again(harness, "instance")


async def _again(harness: AgentHarness, field: str) -> str:
    await harness.session()
    if len(harness.hellos) == 1:
        await harness.session(fresh=True)
    values = {str(hello.get("agent", {}).get(field)) for hello in harness.hellos}
    if len(values) != 1 or values == {"None"}:
        raise RuleBroken(f"agent.{field} was {sorted(values)}"[:200])
    return values.pop()


@CHECKS.check("HELLO-6", "store_id is the same at every dial, and that of jobs.sync")
async def one_store(harness: AgentHarness) -> str:
    """While its store is."""
    session = await harness.session()
    if len(harness.hellos) == 1:
        session = await harness.session(fresh=True)
    sync = await session.wire.expect("jobs.sync")
    values = {hello.get("store_id") for hello in harness.hellos} | {sync.params.get("store_id")}
    if len(values) != 1 or None in values:
        raise RuleBroken(f"store_id was {values}"[:200])
    return str(values.pop())


@CHECKS.check(
    "ROTATE-1", "it answers with a hash, comes with the candidate, and falls back when that is refused"
)
async def rotation(harness: AgentHarness) -> str:
    """The kit takes none of its secrets but by their hash."""
    session = await harness.session()
    old = _credential(harness)
    rotation_id = f"conformance-{uuid.uuid4().hex[:12]}"
    answer = await session.wire.ask("credentials.rotate", {"rotation_id": rotation_id})
    result = answer.result if isinstance(answer.result, dict) else {}
    if result.get("rotation_id") != rotation_id or len(str(result.get("sha256"))) != 64:  # noqa: PLR2004 - hexadecimal
        raise RuleBroken(f"answered with {answer.message}"[:200])
    dials = len(harness.listener.dials)
    await harness.end()
    harness.refuse_next(401)
    await harness.session()
    came = [sha256(_bearer(dial.headers).encode()) for dial in harness.listener.dials[dials:]]
    if came[0] != result["sha256"]:
        raise RuleBroken("the next dial did not come with the candidate")
    if sha256(_credential(harness).encode()) == came[0] or _credential(harness) != old:
        raise RuleBroken("after 401 it did not fall back to the old credential")
    return "candidate, then the old one"


def _credential(harness: AgentHarness) -> str:
    return _bearer(harness.listener.dials[-1].headers)


def _bearer(headers: dict[str, str]) -> str:
    return headers.get("authorization", "").partition(" ")[2]
