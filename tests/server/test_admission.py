"""Who comes in, who does not, and how they are told."""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import quote

import pytest
import websockets

from obt_agent.errors import InvalidParams, ProtocolError
from obt_agent.protocol.admission import AgentLimits, VersionRange
from obt_agent.protocol.limits import Close
from obt_server.hub.storage import Admission
from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage
from tests.server.agent_double import AgentDouble, dial, never, uuid7
from tests.server.conftest import Running, refused_on, running
from tests.server.databases import address_in
from tests.server.enrolling import enrol

CONNECT = "/api/v1/agents/connect"


async def refused(server: Running, token: str | None, **options: object) -> websockets.InvalidStatus:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with dial(server.url, token, uuid7(), **options):
            pass
    return caught.value


async def test_an_enrolled_agent_is_admitted_with_the_servers_terms(server: Running) -> None:
    async with server.agent() as agent:
        result = agent.hello_result
        assert result is not None
        assert (result.protocol, result.session) == (1, 1)
        assert result.server.name == "obt-server"
        assert result.stream_credit_bytes == 32768
        assert result.link_credit_bytes == 131072
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}")).json()
        assert shown["presence"] == "online"


async def test_the_session_number_grows_with_every_admission_also_over_restarts(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        credentials = await server.enrol()
        for expected in (1, 2):
            async with server.agent(credentials=credentials) as agent:
                assert agent.hello_result is not None
                assert agent.hello_result.session == expected
    async with running(tmp_path) as server, server.agent(credentials=credentials) as agent:
        assert agent.hello_result is not None
        assert agent.hello_result.session == 3


async def test_an_unknown_credential_is_refused_with_401_before_the_upgrade(server: Running) -> None:
    error = await refused(server, "not a credential")
    assert error.response.status_code == 401
    assert b"enrol the agent" in (error.response.body or b"")
    assert (await refused(server, None)).response.status_code == 401


async def test_too_many_unknown_credentials_are_refused_with_429_and_retry_after(server: Running) -> None:
    for _ in range(20):
        assert (await refused(server, "guess")).response.status_code == 401
    refused_on(server)
    error = await refused(server, "guess")
    assert error.response.status_code == 429
    assert int(error.response.headers["Retry-After"]) > 0


async def test_a_socket_without_the_subprotocol_is_refused_with_426(server: Running) -> None:
    _, secret = await server.enrol()
    for credential in (secret, "of nobody"):
        error = await refused(server, credential, subprotocols=[])
        assert error.response.status_code == 426, "before a credential is looked at"


async def test_a_page_of_another_site_cannot_open_the_agents_socket(server: Running) -> None:
    _, secret = await server.enrol()
    error = await refused(server, secret, headers={"Origin": "http://evil.example"})
    assert error.response.status_code == 403


async def test_a_full_server_refuses_with_503_and_retry_after(tmp_path: Path) -> None:
    async with running(tmp_path, max_sessions=1) as server, server.agent():
        _, secret = await server.enrol("second")
        error = await refused(server, secret)
    assert error.response.status_code == 503
    assert error.response.headers["Retry-After"] == "60"


async def test_another_agents_credential_is_closed_with_4401(server: Running) -> None:
    _, secret = await server.enrol()
    async with dial(server.url, secret, uuid7()) as agent:
        with pytest.raises(ProtocolError, match="not the one"):
            await agent.hello()
        assert (await agent.until_closed())[0] == Close.CREDENTIAL_REFUSED


async def test_no_common_version_is_closed_with_4426(server: Running) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id) as agent:
        with pytest.raises(ProtocolError, match="speaks version 1, the agent 2 to 3"):
            await agent.hello(protocol=VersionRange(min=2, max=3))
        assert (await agent.until_closed())[0] == Close.NO_COMMON_VERSION


async def test_a_newer_agent_that_still_speaks_version_1_is_admitted(server: Running) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id) as agent:
        assert (await agent.hello(protocol=VersionRange(min=1, max=9))).protocol == 1


@pytest.mark.parametrize(
    ("identity", "field"),
    [({"name": ""}, "name"), ({"instance": "x" * 201}, "instance"), ({"version": "v" * 300}, "version")],
)
async def test_an_identity_that_cannot_be_stored_is_refused_by_field(
    server: Running, identity: dict[str, str], field: str
) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id, **identity) as agent:
        with pytest.raises(InvalidParams, match=f"params.agent.{field}"):
            await agent.hello()
        assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("field", "text"),
    [("name", "a\0b"), ("version", "\0"), ("store_id", "a\0b"), ("store_id", "s" * 201), ("labels", "a\0b")],
)
async def test_a_text_that_cannot_be_stored_is_refused_by_its_field(
    server: Running, field: str, text: str
) -> None:
    agent_id, secret = await server.enrol()
    identity = {"labels": (text,)} if field == "labels" else {field: text}
    given = {} if field == "store_id" else identity
    async with dial(server.url, secret, agent_id, **given) as agent:
        agent.store_id = text if field == "store_id" else agent.store_id
        with pytest.raises(InvalidParams, match=f"params.*{field}"):
            await agent.hello()
        assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


async def test_an_agent_that_takes_only_tiny_frames_is_refused(server: Running) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id) as agent:
        with pytest.raises(InvalidParams, match="max_frame_bytes"):
            await agent.hello(limits=AgentLimits(max_frame_bytes=1000))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"models.sync"}', Close.PROTOCOL_ERROR),
        (b'{"jsonrpc":"2.0","method":"agent.hello","params":{}}', Close.PROTOCOL_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"agent.hello","params":{}}', Close.PROTOCOL_ERROR),
        (b"not json", Close.PROTOCOL_ERROR),
        (b'{"x":"' + b"a" * 33000 + b'"}', Close.TOO_BIG),
    ],
)
async def test_a_first_frame_that_is_no_hello_is_closed(server: Running, frame: bytes, code: int) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id) as agent:
        await agent.send(frame)
        async with asyncio.timeout(20):
            await agent.socket.wait_closed()
        assert agent.socket.close_code == code


async def test_a_binary_first_frame_is_closed_with_1003(server: Running) -> None:
    agent_id, secret = await server.enrol()
    async with dial(server.url, secret, agent_id) as agent:
        await agent.socket.send(b"\x00\x01")
        async with asyncio.timeout(20):
            await agent.socket.wait_closed()
        assert agent.socket.close_code == Close.UNSUPPORTED_DATA


async def test_a_socket_that_says_nothing_is_closed_with_4408(tmp_path: Path) -> None:
    async with running(tmp_path, hello_within_s=0.05) as server:
        agent_id, secret = await server.enrol()
        async with dial(server.url, secret, agent_id) as agent, asyncio.timeout(20):
            await agent.socket.wait_closed()
        assert agent.socket.close_code == Close.SILENT


async def test_a_socket_that_leaves_before_hello_harms_nobody(server: Running) -> None:
    credentials = await server.enrol()
    async with dial(server.url, credentials[1], credentials[0]):
        pass
    async with server.agent(credentials=credentials) as agent:
        assert agent.hello_result is not None


async def test_a_redial_of_the_same_process_replaces_the_old_socket(server: Running) -> None:
    credentials = await server.enrol()

    def dialled() -> AbstractAsyncContextManager[AgentDouble]:
        return server.agent(credentials=credentials, instance="one")

    async with dialled() as old, dialled() as new:
        assert (await old.until_closed())[0] == Close.GOING_AWAY
        shown = (await server.http.get(f"/api/v1/agents/{new.agent_id}")).json()
        assert (shown["presence"], shown["session"]) == ("online", 2)


async def test_a_second_process_of_a_live_agent_is_closed_with_4409_and_the_first_goes_on(
    server: Running,
) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as first:
        async with dial(server.url, credentials[1], credentials[0]) as second:
            with pytest.raises(asyncio.CancelledError):
                await second.hello()
            assert second.closed is not None
            assert second.closed[0] == Close.IDENTITY_IN_USE
        shown = (await server.http.get(f"/api/v1/agents/{first.agent_id}")).json()
        assert (shown["presence"], shown["session"]) == ("online", 1)
        assert first.closed is None


async def test_a_second_process_takes_over_when_nothing_is_heard_of_the_first(tmp_path: Path) -> None:
    async with running(tmp_path, probe_s=0.2) as server:
        credentials = await server.enrol()
        async with server.agent(credentials=credentials) as first:
            first.handlers["state.request"] = never
            async with server.agent(credentials=credentials) as second:
                assert second.hello_result is not None
                assert second.hello_result.session == 2
                assert (await first.until_closed())[0] == Close.GOING_AWAY


async def test_an_agent_that_takes_anothers_name_is_shown_with_its_id(server: Running) -> None:
    async with server.agent("twin") as one, server.agent("twin") as two:
        named = (await server.http.get("/api/v1/agents/twin")).json()
        other = f"twin ({two.agent_id[-8:]})"
        assert (named["id"], (await server.http.get(f"/api/v1/agents/{other}")).json()["id"]) == (
            one.agent_id,
            two.agent_id,
        )
        async with server.agent(one.agent_id) as three:
            by_id = (await server.http.get(f"/api/v1/agents/{one.agent_id}")).json()
            assert by_id["id"] == one.agent_id != three.agent_id


async def test_a_name_that_became_another_agents_id_is_given_up_at_the_next_hello(tmp_path: Path) -> None:
    with contextlib.closing(Database.open(address_in(tmp_path))) as database:
        storage = SqlStorage(database)
        for agent_id, name in (("a1", "a2"), ("a2", "box")):
            enrolment = Enrolment(agent_id=agent_id, name=name, version="1", secret_sha256=agent_id)
            await enrol(storage, enrolment, 1.0)
        hello = Admission(
            agent_id="a1", credential_id=1, name="a2", version="1", store_id="s", capabilities=(), at=2.0
        )
        assert (await storage.admit(hello)).name == "a2 (a1)"
        # The name that it has now is its own, however often it comes.
        assert (await storage.admit(hello)).name == "a2 (a1)"


async def test_a_name_that_an_operator_gives_wins_and_stays(server: Running) -> None:
    credentials = await server.enrol("box")
    async with server.agent("rack-1") as squatter:
        answer = await server.http.patch(f"/api/v1/agents/{credentials[0]}", json={"name": "rack-1"})
        assert (answer.status_code, answer.json()["name"]) == (200, "rack-1")
        shown = (await server.http.get(f"/api/v1/agents/{squatter.agent_id}")).json()
        assert shown["name"] == f"rack-1 ({squatter.agent_id[-8:]})"
        async with server.agent("box", credentials=credentials):
            assert (await server.http.get("/api/v1/agents/rack-1")).json()["id"] == credentials[0]
        taken = await server.http.patch(f"/api/v1/agents/{squatter.agent_id}", json={"name": "rack-1"})
    assert (taken.status_code, taken.json()["error"]["kind"]) == (409, "name_taken")


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "connect", "enroll", "ä ö", "50 %", "?q#f", "x" * 200, "\\", " "]
)
async def test_every_agent_is_reachable_by_the_name_it_is_shown_with(server: Running, name: str) -> None:
    async with server.agent(name) as agent:
        (shown,) = (await server.http.get("/api/v1/agents")).json()
        found = await server.http.get(f"/api/v1/agents/{quote(shown['name'], safe='')}")
    assert found.json()["id"] == agent.agent_id, shown["name"]


async def test_a_unique_name_is_as_good_as_the_id(server: Running) -> None:
    async with server.agent("only") as agent:
        assert (await server.http.get("/api/v1/agents/only")).json()["id"] == agent.agent_id
    assert (await server.http.get("/api/v1/agents/nobody")).status_code == 404


async def test_a_plain_request_to_the_agents_door_is_no_upgrade(server: Running) -> None:
    answer = await server.http.get(CONNECT)
    assert answer.status_code == 426


async def test_draining_tells_agents_to_come_back_and_closes_with_4503(server: Running) -> None:
    async with server.agent() as agent:
        await server.parts.hub.drain()
        assert (await agent.until_closed())[0] == Close.DRAINING
        assert [note.method for note in agent.notes] == ["server.drain"]
        _, secret = await server.enrol("late")
        assert (await refused(server, secret)).response.status_code == 503


async def test_strangers_who_guess_do_not_lock_out_an_agent_that_is_known(server: Running) -> None:
    credentials = await server.enrol()
    for _ in range(20):
        await refused(server, "guess")
    refused_on(server)
    assert (await refused(server, "guess")).response.status_code == 429
    async with server.agent(credentials=credentials) as agent:
        assert agent.hello_result is not None


async def test_one_agents_sockets_without_a_hello_keep_no_other_agent_out(tmp_path: Path) -> None:
    async with running(tmp_path, max_sessions=12) as server, contextlib.AsyncExitStack() as stack:
        agent_id, secret = await server.enrol("greedy")
        silent = [await stack.enter_async_context(dial(server.url, secret, agent_id)) for _ in range(8)]
        async with dial(server.url, secret, agent_id) as ninth, asyncio.timeout(20):
            await ninth.socket.wait_closed()
        assert ninth.socket.close_code == Close.TOO_MUCH
        async with server.agent("honest") as honest:
            assert honest.hello_result is not None
        await silent[0].hello()


async def test_an_agent_that_dials_without_end_is_told_when_to_come_again_and_others_come(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, dials_at_once=2, dials_per_s=0.01) as server:
        credentials = await server.enrol()
        for _ in range(2):
            async with server.agent(credentials=credentials):
                pass
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with dial(server.url, credentials[1], credentials[0]):
                pass
        assert caught.value.response.status_code == 429
        assert 90 <= int(caught.value.response.headers["Retry-After"]) <= 100
        async with server.agent():
            pass
