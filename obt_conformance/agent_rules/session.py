"""[TRANSPORT], [HELLO], [LIFE], [ROTATE]: how an agent dials, introduces itself, stays and comes back."""

from __future__ import annotations

import time
import uuid

import msgspec
from websockets.datastructures import Headers

from obt_agent.protocol import limits
from obt_agent.protocol.admission import HeartbeatParams, HelloParams
from obt_agent.protocol.errors import CODE_OF_KIND
from obt_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL, Close
from obt_conformance.agent_harness import CHECKS, LONGEST_DELAYS, SYNCS, AgentHarness, KitSession
from obt_conformance.both_sides import longest_pause
from obt_conformance.checks import RuleBroken, require
from obt_conformance.identity import sha256

DRAIN_S = 3.0


def _matches(params: object, type_: type[msgspec.Struct]) -> None:
    """Raise ``RuleBroken`` unless parameters are of the documented shape."""
    try:
        msgspec.convert(params, type_)
    except msgspec.ValidationError as error:
        raise RuleBroken(f"{type_.__name__}: {error}") from error


def _bearer(headers: Headers) -> str:
    scheme, _, credential = headers.get("Authorization", "").partition(" ")
    require(scheme.lower() == "bearer" and credential, "there is no Authorization: Bearer")
    return credential


@CHECKS.check("TRANSPORT-1", "it dials the path with obt.v1, a bearer credential and no extension")
async def upgrade(harness: AgentHarness) -> str:
    """Read the upgrade that it asked for."""
    await harness.session()
    dial = harness.listener.dials[-1]
    require(dial.path == CONNECT_PATH, f"it dialled {dial.path}")
    offered = [name.strip() for name in dial.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    require(SUBPROTOCOL in offered, f"the subprotocols are {offered}")
    extensions = dial.headers.get("Sec-WebSocket-Extensions")
    require(extensions is None, f"it offers {extensions}")
    _bearer(dial.headers)
    return f"{dial.path}, {SUBPROTOCOL}"


@CHECKS.check("TRANSPORT-1", "it follows no redirect", takes_s=LONGEST_DELAYS * limits.RECONNECT_MAX_S)
async def redirect(harness: AgentHarness) -> str:
    """Answer a dial with another address."""
    elsewhere = f"http://127.0.0.1:{harness.listener.port}/elsewhere"
    # Before it may dial again.
    harness.listener.refuse_next(302, ("Location", elsewhere))
    await harness.end()
    await harness.session()
    # Its credential would have gone with it.
    followed = any(dial.path != CONNECT_PATH for dial in harness.listener.dials)
    require(not followed, "it went where the redirect pointed")
    return "it dialled the same path again"


@CHECKS.check("TRANSPORT-3", "a request with an id in flight is answered -32600, and the first goes on")
async def duplicate(harness: AgentHarness) -> str:
    """Ask twice with one id; the first has its own final later."""
    session = await harness.session()
    wire = session.wire
    async with harness.running(session) as request_id:
        await wire.post("running_models", {}, request_id)
        answer = await wire.answer(request_id, "the second request was not answered")
        refused = answer.error_code == CODE_OF_KIND["invalid_request"]
        require(refused, f"the second request was answered with {answer.message}")
        await wire.ask("cancel", {"id": request_id})
        await wire.until(lambda: len(wire.answers(request_id)) > 1, "the first request had no final")
    return "-32600, then the first one's final"


@CHECKS.check("HELLO-1", "agent.hello comes first, is small, and nothing follows before its answer")
async def hello_first(harness: AgentHarness) -> str:
    """Take a while for the answer."""
    await harness.end()
    wire, hello = await harness.greeted()
    require(wire.frames[0] is hello, f"{wire.frames[0].method} came first")
    require(hello.size <= limits.MAX_HELLO_BYTES, f"the hello has {hello.size} bytes")
    # A sign of life may come before the answer; nothing else may.
    await wire.quiet_for(harness.deadlines.quiet_s)
    early = [frame.method for frame in wire.frames[1:] if frame.method != "link.alive"]
    require(not early, f"{early} came before the answer")
    await harness.admit(wire, hello)
    return f"{hello.size} bytes"


@CHECKS.check("HELLO-2", "the shortest answer admits it")
async def shortest_answer(harness: AgentHarness) -> str:
    """Answer with protocol and session: the rest has defaults."""
    session = await harness.session()
    _matches(session.introduction, HelloParams)
    await session.wire.ask_ok("running_models")
    return "admitted"


@CHECKS.check("SYNC-1", "models, hardware and jobs are synced after admission, and again when asked")
async def states(harness: AgentHarness) -> str:
    """Wait for all three, twice."""
    session = await harness.session()
    await harness.synced(session)
    # The answer to a request for states is the states themselves, sent again.
    before = {method: len(session.wire.of(method)) for method in SYNCS}
    await session.wire.ask("state.request", {"kinds": ["models", "hardware", "jobs"]})
    for method in SYNCS:
        await session.wire.expect(method, count=before[method] + 1)
    session.ledger.check_clean()
    return "three states, and three again when asked"


@CHECKS.check("HELLO-3", "after 4426 it comes back", takes_s=LONGEST_DELAYS * limits.RECONNECT_MAX_S)
async def no_common_version(harness: AgentHarness) -> str:
    """Wait out the longest delay."""
    await harness.end()
    wire, _ = await harness.greeted()
    await wire.close(limits.Close.NO_COMMON_VERSION)
    await harness.session()
    return "it dialled again"


@CHECKS.check("HELLO-4", "its id is a UUID, and the same at every dial")
async def one_id(harness: AgentHarness) -> str:
    """Compare its hellos: it has one identity for ever."""
    first = await _same_at_every_dial(harness, "id")
    try:
        uuid.UUID(first)
    except ValueError:
        raise RuleBroken(f"agent.id is {first!r}") from None
    return first


@CHECKS.check("HELLO-5", "its instance is the same at every dial of one process")
async def one_instance(harness: AgentHarness) -> str:
    """Compare its hellos: by its instance, a redial differs from a second process."""
    return await _same_at_every_dial(harness, "instance")


async def _dialled_twice(harness: AgentHarness) -> KitSession:
    session = await harness.session()
    # One hello proves nothing; where checks before this one had more, they count.
    return session if len(harness.hellos) > 1 else await harness.session(fresh=True)


async def _same_at_every_dial(harness: AgentHarness, field: str) -> str:
    await _dialled_twice(harness)
    values = {str(hello.get("agent", {}).get(field)) for hello in harness.hellos}
    require(len(values) == 1 and values != {"None"}, f"agent.{field} was {sorted(values)}")
    return values.pop()


@CHECKS.check("HELLO-6", "store_id is the same at every dial, and that of jobs.sync")
async def one_store(harness: AgentHarness) -> str:
    """Compare its hellos: the store is the same while its files are."""
    session = await _dialled_twice(harness)
    sync = await session.wire.expect("jobs.sync")
    values = {hello.get("store_id") for hello in [*harness.hellos, sync.params]}
    require(len(values) == 1 and None not in values, f"store_id was {values}")
    return str(values.pop())


@CHECKS.check("LIFE-1", "something comes at least every 5 s", takes_s=3 * limits.ALIVE_INTERVAL_S)
async def agent_lives(harness: AgentHarness) -> str:
    """Listen between heartbeats that are a minute apart."""
    session = await harness.session(fresh=True, heartbeat_interval_s=60)
    await harness.synced(session)
    alive_s = harness.deadlines.alive_s
    return await longest_pause(session.wire, 3 * alive_s, lambda: alive_s + harness.slack_s)


@CHECKS.check("LIFE-2", "a server that is silent for 18 s is dropped", takes_s=limits.SILENCE_S)
async def silent_server(harness: AgentHarness) -> str:
    """Fall silent; then it dials again."""
    session = await harness.session()
    # Answers and grants would be signs of life.
    session.wire.handlers.clear()
    session.grant_link = False
    session.wire.stop_sending_alive()
    times = harness.deadlines
    dropped = await session.wire.dropped_between(
        times.silence_s - times.alive_s, lambda: times.silence_s + harness.slack_s
    )
    # 1006: a socket that is taken for dead may be left without a closing handshake.
    await session.wire.closed_with(1006, Close.SILENT)
    await harness.session()
    return f"{dropped}, and dialled again"


@CHECKS.check("LIFE-3", "heartbeats come as often as the server asks for, and are of the documented shape")
async def heartbeats(harness: AgentHarness) -> str:
    """Ask for one every half second."""
    session = await harness.session(fresh=True, heartbeat_interval_s=0.5)
    last = await session.wire.expect("heartbeat", count=3)
    _matches(last.params, HeartbeatParams)
    return f"Ollama {'reachable' if last.params['ollama']['reachable'] else 'not reachable'}"


@CHECKS.check("LIFE-4", "after server.drain it comes back, and no earlier than asked", takes_s=DRAIN_S)
async def drain(harness: AgentHarness) -> str:
    """Send it away for a while."""
    session = await harness.session()
    await session.wire.notify("server.drain", {"retry_after_s": DRAIN_S})
    started = time.monotonic()
    await session.wire.close(Close.DRAINING)
    # Made to dial, as its owner may at any time, it would come back at once, and rightly.
    redial, harness.redial = harness.redial, None
    try:
        await harness.session()
    finally:
        harness.redial = redial
    waited = time.monotonic() - started
    require(waited >= DRAIN_S, f"it came back after {waited:.1f} s of {DRAIN_S:g}")
    return f"back after {waited:.1f} s"


@CHECKS.check(
    "ROTATE-1", "it answers with a hash, comes with the candidate, and falls back when that is refused"
)
async def rotation(harness: AgentHarness) -> str:
    """Refuse the candidate, which the kit knows by its hash alone."""
    session = await harness.session()
    old = _bearer(harness.listener.dials[-1].headers)
    rotation_id = f"conformance-{uuid.uuid4().hex[:12]}"
    answer = await session.wire.ask("credentials.rotate", {"rotation_id": rotation_id})
    candidate = str(answer.result.get("sha256"))
    hexadecimal = 64
    require(
        answer.result.get("rotation_id") == rotation_id and len(candidate) == hexadecimal,
        f"answered with {answer.message}",
    )
    dials = len(harness.listener.dials)
    # As a server does that never heard of the candidate; said before it may dial again.
    harness.listener.refuse_next(401)
    await harness.end()
    await harness.session()
    first, last = harness.listener.dials[dials].headers, harness.listener.dials[-1].headers
    require(sha256(_bearer(first)) == candidate, "the next dial did not come with the candidate")
    require(_bearer(last) == old, "after 401 it did not fall back to the old credential")
    return "candidate, then the old one"
