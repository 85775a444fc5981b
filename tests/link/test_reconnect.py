"""The loop: what each ending leads to, and that it never ends by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from obt_agent.backoff import BackoffSettings
from obt_agent.errors import AdmissionRefused, ConfigError
from obt_agent.identity.credentials import AgentCredential
from obt_agent.identity.folder import FolderError
from obt_agent.identity.secret import Secret
from obt_agent.link.disconnect import NextDial, from_close_code
from obt_agent.protocol.admission import VersionRange
from tests.link.doubles import (
    PATIENCE_S,
    QUICK,
    SLOW,
    CredentialsDouble,
    LinkRig,
    at_once,
    item,
    linked,
    meeting,
    shorter,
)
from tests.link.server_double import Peer, Script, ServerDouble, refusal
from tests.waiting import until


async def serve(peer: Peer) -> None:
    await peer.admit()
    await peer.until_closed()


def closing(code: int, reason: str = "", *, admit: bool = True) -> Script:
    async def script(peer: Peer) -> None:
        if admit:
            await peer.admit()
        await peer.socket.close(code, reason)

    return script


async def test_the_link_is_made_again_after_every_kind_of_end() -> None:
    async def break_off(peer: Peer) -> None:
        await peer.admit()
        await peer.expect(id=await peer.request("state.request", {"kinds": []}))
        peer.socket.transport.abort()

    scripts = [closing(1000), closing(1001), break_off, closing(4400), closing(4408), closing(4429), serve]
    refusals = [refusal(503), refusal(500)]
    async with ServerDouble(*scripts, refusals=refusals) as server, linked(server.url) as rig:
        sessions = [await rig.session() for _ in range(7)]
        assert [session.number for session in sessions] == list(range(1, 8))
        assert rig.link.statistics.dials == 9
        assert rig.link.statistics.admissions == 7
        assert len(rig.handler.ended) == 6


async def test_a_server_that_accepts_and_closes_is_not_dialled_in_a_loop() -> None:
    """The delay does not start anew at the handshake."""
    async with (
        ServerDouble(closing(1001, admit=False)) as server,
        linked(server.url, backoff=BackoffSettings(minimum_s=0.05, maximum_s=3600)) as rig,
    ):
        await until(lambda: len(server.requests) >= 3)
        await rig.until_down()
        assert rig.link._policy._backoff.ceiling_s >= 0.4  # noqa: SLF001 - the delay itself is random


async def test_a_session_that_was_admitted_too_shortly_does_not_reset_the_delay() -> None:
    async with (
        ServerDouble(closing(1001)) as server,
        linked(server.url) as rig,
    ):
        for _ in range(4):
            await rig.session()
        await rig.until_down()
        assert rig.link._policy._backoff.ceiling_s == QUICK.maximum_s  # noqa: SLF001 - the delay itself is random


@pytest.mark.parametrize(
    ("code", "reason", "next_", "kind"),
    [
        (1000, "", NextDial.REDIAL, "closed"),
        (1001, "", NextDial.REDIAL, "going_away"),
        (1006, "", NextDial.REDIAL, "lost"),
        (1011, "oops", NextDial.REDIAL, "closed_otherwise"),
        (4400, "", NextDial.REDIAL, "protocol_error"),
        (4401, "", NextDial.REFUSED, "refused_4401"),
        (4408, "", NextDial.REDIAL, "silent_here"),
        (4409, "pid 7 on box", NextDial.MAX_BACKOFF, "identity_in_use"),
        (4426, "", NextDial.MAX_BACKOFF, "no_common_version"),
        (4429, "", NextDial.REDIAL, "too_much"),
        (4503, "", NextDial.REDIAL, "draining"),
    ],
)
def test_each_close_code_has_its_consequence(code: int, reason: str, next_: NextDial, kind: str) -> None:
    ending = from_close_code(code, reason)
    assert (ending.next, ending.kind) == (next_, kind)
    assert reason in ending.message
    assert not ending.revoked


def test_only_a_4401_that_says_so_is_a_revocation() -> None:
    assert from_close_code(4401, "revoked").revoked
    assert not from_close_code(4400, "revoked").revoked


def test_what_a_peer_writes_is_fit_for_a_log() -> None:
    message = from_close_code(4409, "line\nfeed\x1b[31m" + "x" * 500).message
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 400


async def test_an_identity_in_use_waits_at_the_cap_and_says_who_holds_it() -> None:
    async with (
        ServerDouble(closing(4409, "instance i-2, pid 77", admit=False)) as server,
        linked(server.url, backoff=BackoffSettings(minimum_s=0.001, maximum_s=60)) as rig,
    ):
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        status = rig.link.status
        assert status.next_dial_in_s is not None
        assert 60 <= status.next_dial_in_s <= 90
        assert "pid 77" in str(status.problem)


@pytest.mark.parametrize("asked_by", ["retry-after", "drain"])
async def test_what_the_server_asks_for_is_a_floor(asked_by: str) -> None:
    async def drain(peer: Peer) -> None:
        await peer.admit()
        await peer.notify("server.drain", {"retry_after_s": 100})
        await peer.socket.close(4503)

    refusals = [refusal(503, {"Retry-After": "100"})] if asked_by == "retry-after" else []
    async with ServerDouble(drain, refusals=refusals) as server, linked(server.url) as rig:
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        assert rig.link.status.next_dial_in_s is not None
        assert 100 <= rig.link.status.next_dial_in_s <= 150


async def test_a_revoked_credential_ends_the_link_for_good() -> None:
    async with ServerDouble(closing(4401, "revoked", admit=False)) as server:
        rig = LinkRig(server.url)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(AdmissionRefused, match="obt-agent enroll"):
                await rig.link.run()
        assert rig.credentials.verdicts == [("revoked", "stored")]
        assert rig.link.status.state == "stopped"


async def test_a_credential_never_admitted_is_given_up_after_ten_refusals_and_the_time() -> None:
    numbers = BackoffSettings(
        minimum_s=0.001, maximum_s=0.001, refused_maximum_s=0.004, refused_for_s_before_exit=0.02
    )
    refusals = [refusal(401) for _ in range(500)]
    async with ServerDouble(serve, refusals=refusals) as server:
        rig = LinkRig(server.url, backoff=numbers, credentials=CredentialsDouble(ever=False))
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(AdmissionRefused):
                await rig.link.run()
        assert len(server.requests) >= 10
        assert time.monotonic() - started >= 0.02


async def test_a_credential_that_was_admitted_before_outlives_a_mistake_on_the_server() -> None:
    numbers = BackoffSettings(
        minimum_s=0.001, maximum_s=0.001, refused_maximum_s=0.002, refused_for_s_before_exit=0.0
    )
    refusals = [refusal(401 if number % 2 else 403) for number in range(40)]
    async with ServerDouble(serve, refusals=refusals) as server, linked(server.url, backoff=numbers) as rig:
        await rig.session()
        assert len(server.requests) == 41


async def test_a_candidate_that_is_refused_gives_way_to_the_old_credential() -> None:
    credentials = CredentialsDouble()
    credentials.candidate = AgentCredential(Secret("new"), "candidate")
    refusals = [refusal(401)]
    async with (
        ServerDouble(serve, refusals=refusals) as server,
        linked(server.url, credentials=credentials) as rig,
    ):
        await rig.session()
        assert [request.headers["Authorization"] for request in server.requests] == [
            "Bearer new",
            "Bearer canary-secret",
        ]
        assert credentials.verdicts == [("refused", "candidate"), ("admitted", "stored")]


async def test_a_revoked_candidate_does_not_end_the_link() -> None:
    credentials = CredentialsDouble()
    credentials.candidate = AgentCredential(Secret("new"), "candidate")
    scripts = [closing(4401, "revoked", admit=False), serve]
    async with (
        ServerDouble(*scripts) as server,
        linked(server.url, credentials=credentials) as rig,
    ):
        await rig.session()


async def test_without_a_credential_there_is_nothing_to_dial_with() -> None:
    credentials = CredentialsDouble()
    credentials.stored = None
    with pytest.raises(ConfigError, match="obt-agent enroll"):
        await LinkRig("http://localhost:1", credentials=credentials).link.run()


async def test_a_full_disk_does_not_keep_the_agent_away() -> None:
    credentials = CredentialsDouble()
    credentials.fail = FolderError("no space left")
    async with ServerDouble(serve) as server, linked(server.url, credentials=credentials) as rig:
        await rig.session()


async def test_a_fault_of_the_agent_at_admission_is_not_hidden() -> None:
    credentials = CredentialsDouble()
    credentials.fail = RuntimeError("a fault")
    async with ServerDouble(serve) as server:
        rig = LinkRig(server.url, credentials=credentials)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(RuntimeError, match="a fault"):
                await rig.link.run()


async def test_dial_now_cuts_the_wait_short() -> None:
    scripts = [closing(1001), serve]
    async with ServerDouble(*scripts) as server, linked(server.url, backoff=SLOW) as rig:
        await rig.session()
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        rig.link.dial_now()
        await rig.session()


async def test_dial_now_leaves_a_live_session_alone() -> None:
    async with meeting() as met:
        met.rig.link.dial_now()
        met.handler.methods["ping"] = at_once
        await met.peer.expect(id=await met.peer.request("ping"))
        assert not met.rig.link._wake.is_set()  # noqa: SLF001 - a later end must not find an old wish


async def test_dial_now_while_it_dials_does_not_cut_a_later_wait_short() -> None:
    async def drain(peer: Peer) -> None:
        await peer.admit()
        await peer.notify("server.drain", {"retry_after_s": 100})
        await peer.socket.close(4503)

    class Reloading(ServerDouble):
        def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
            rig.link.dial_now()
            return super()._process_request(connection, request)

    async with Reloading(drain) as server, linked(server.url) as rig:
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        assert len(server.requests) == 1


async def test_waking_from_a_long_suspend_dials_at_once() -> None:
    async with ServerDouble(serve) as server, linked(server.url, backoff=SLOW) as rig:
        first = await rig.session()
        rig.link._woke(3600.0)  # noqa: SLF001 - no test can suspend the machine
        second = await rig.session()
        assert not first.alive
        assert second.number == 2


async def test_waking_while_waiting_dials_at_once() -> None:
    scripts = [closing(1001), serve]
    async with ServerDouble(*scripts) as server, linked(server.url, backoff=SLOW) as rig:
        await rig.session()
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        rig.link._woke(5.0)  # noqa: SLF001 - no test can suspend the machine
        await rig.session()


async def test_a_short_suspend_and_a_changed_route_only_ask_a_live_server_for_a_sign() -> None:
    async with meeting() as met:
        met.rig.link._woke(5.0)  # noqa: SLF001 - no test can suspend the machine
        met.rig.link._route_changed()  # noqa: SLF001 - nor change its routes
        met.handler.methods["ping"] = at_once
        await met.peer.expect(id=await met.peer.request("ping"))
        assert met.session.alive


async def test_a_changed_route_while_waiting_dials_at_once() -> None:
    scripts = [closing(1001), serve]
    async with ServerDouble(*scripts) as server, linked(server.url, backoff=SLOW) as rig:
        await rig.session()
        await until(lambda: rig.link.status.next_dial_in_s is not None)
        rig.link._route_changed()  # noqa: SLF001 - no test can change the machine's routes
        await rig.session()


async def hello_with(result: object) -> tuple[int, LinkRig]:
    """Answer the hello with this; the close code, and the link."""

    async def script(peer: Peer) -> None:
        await peer.answer(await peer.expect("agent.hello"), result)
        codes.put_nowait(await peer.until_closed())

    codes: asyncio.Queue[int] = asyncio.Queue()
    async with ServerDouble(script) as server, linked(server.url, backoff=SLOW) as rig:
        code = await codes.get()
        await rig.until_down()
    assert rig.admitted.empty()
    return code, rig


async def test_a_version_that_we_do_not_speak_closes_with_4426_and_waits() -> None:
    code, rig = await hello_with({"protocol": 9, "session": 1})
    assert code == 4426
    assert not rig.handler.ended


@pytest.mark.parametrize("result", [{}, {"protocol": 1}, {"protocol": "1", "session": 1}, 5, None])
async def test_an_answer_to_hello_that_is_none_closes_with_4400(result: object) -> None:
    code, _ = await hello_with(result)
    assert code == 4400


async def test_only_what_the_protocol_requires_is_required_of_the_answer_to_hello() -> None:
    async with ServerDouble(serve) as server, linked(server.url, version=VersionRange(min=1, max=3)) as rig:
        _, result = await rig.admitted.get()
        assert result.stream_credit_bytes == 32768
        assert result.heartbeat_interval_s is None, "the agent keeps its own"


async def test_a_hello_without_an_answer_is_given_up_at_its_deadline() -> None:
    async def script(peer: Peer) -> None:
        codes.put_nowait(await peer.until_closed())

    codes: asyncio.Queue[int] = asyncio.Queue()
    async with ServerDouble(script) as server, linked(server.url, timings=shorter(hello_s=0.05)):
        assert await codes.get() == 4400


async def test_a_hello_answered_with_an_error_says_the_servers_reason() -> None:
    async def script(peer: Peer) -> None:
        hello = await peer.expect("agent.hello")
        error = {"code": -32005, "message": "no such agent"}
        await peer.send({"jsonrpc": "2.0", "id": hello["id"], "error": error})
        await peer.until_closed()

    async with ServerDouble(script) as server, linked(server.url, backoff=SLOW) as rig:
        assert "no such agent" in await rig.until_down()


async def test_draining_says_goodbye_lets_everything_out_and_closes_with_1001() -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        goodbye = await peer.expect("agent.goodbye")
        farewell.put_nowait(goodbye["params"])
        farewell.put_nowait({"code": await peer.until_closed()})

    farewell: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    async with ServerDouble(script) as server, linked(server.url) as rig:
        await rig.session()
        await rig.link.drain("restart", retry_after_s=3.0)
        assert rig.running is not None
        await rig.running
        assert await farewell.get() == {"reason": "restart", "retry_after_s": 3.0}
        assert await farewell.get() == {"code": 1001}
        assert rig.link.status.state == "stopped"


async def test_redialling_says_goodbye_and_comes_back_at_once_with_a_new_hello() -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        goodbyes.append((await peer.expect("agent.goodbye"))["params"]["reason"])
        await peer.until_closed()

    goodbyes: list[str] = []
    async with ServerDouble(script, serve) as server, linked(server.url, backoff=SLOW) as rig:
        await rig.session()
        await rig.link.redial("reload")
        session = await rig.session()
        assert session.number == 2
        assert goodbyes == ["reload"]


async def test_draining_is_bounded_when_the_server_takes_nothing() -> None:
    async with meeting(timings=shorter(flush_s=0.05, close_s=0.05), hello={"link_credit_bytes": 0}) as met:

        async def handler(session: object, request: object) -> None:
            sink = met.session.open_stream(1)
            await sink.send([item(1)])

        met.handler.methods["generate"] = handler
        await met.peer.request("generate", id=1)
        await until(lambda: met.session.streams == 1)
        met.peer.socket.transport.pause_reading()
        await met.rig.link.drain("shutdown")
        assert met.rig.running is not None
        await met.rig.running


@pytest.mark.parametrize("state", ["waiting", "dialling"])
async def test_draining_without_a_session_ends_at_once(state: str) -> None:
    async def never_admit(peer: Peer) -> None:
        await peer.until_closed()

    refusals = [refusal(503)] if state == "waiting" else []
    async with (
        ServerDouble(never_admit, refusals=refusals) as server,
        linked(server.url, backoff=SLOW) as rig,
    ):
        if state == "waiting":
            await until(lambda: rig.link.status.next_dial_in_s is not None)
        else:
            await until(lambda: rig.link.status.state == "dialling")
        await rig.link.drain("shutdown")
        assert rig.running is not None
        await rig.running


async def test_a_candidate_is_kept_though_the_server_closes_right_behind_its_answer() -> None:
    async def script(peer: Peer) -> None:
        hello = await peer.expect("agent.hello")
        answer = {"jsonrpc": "2.0", "id": hello["id"], "result": {"protocol": 1, "session": 1}}
        peer.socket.protocol.send_text(json.dumps(answer).encode())
        peer.socket.protocol.send_close(1001)
        peer.socket.send_data()
        await peer.until_closed()
        closed.set()

    closed = threading.Event()

    class SlowDisk(CredentialsDouble):
        def admitted(self, credential: AgentCredential, announced: Sequence[str] = ()) -> None:
            assert closed.wait(PATIENCE_S), "in a thread of its own: the link closes meanwhile"
            super().admitted(credential, announced)

    credentials = SlowDisk()
    credentials.candidate = AgentCredential(Secret("new"), "candidate")
    async with (
        ServerDouble(script) as server,
        linked(server.url, credentials=credentials, backoff=SLOW, timings=shorter(close_s=15)) as rig,
    ):
        await rig.session()
        await rig.until_down()
        assert credentials.verdicts == [("admitted", "candidate")]


async def test_no_secret_is_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # at which the library writes headers down
    refusals = [refusal(401), refusal(503)]
    async with ServerDouble(serve, refusals=refusals) as server:
        async with linked(
            server.url, proxy="http://user:canary-proxy@127.0.0.1:1", allow_insecure=True
        ) as rig:
            await rig.until_down()
        async with linked(server.url) as rig:
            await rig.session()
    out, err = capfd.readouterr()
    assert "link.admitted" in out + err
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert "canary" not in "\n".join([out, err, *ours])
