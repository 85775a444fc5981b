"""Enrolment, rotation and revocation."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import websockets

from obt_agent.errors import StorageFailed
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.limits import Close
from obt_agent.protocol.server_key import split_join_token
from obt_server.auth import secrets
from tests.server.agent_double import AgentDouble, Answer, dial, never, uuid7
from tests.server.conftest import Running, refused_on, running
from tests.server.databases import sqlite_alone
from tests.waiting import until


async def join_token(server: Running, **body: Any) -> tuple[str, int]:
    answer = await server.http.post("/api/v1/join-tokens", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["secret"], answer.json()["token"]["id"]


def rotating(server: Running) -> dict[str, asyncio.Task[None]]:
    """What goes on by itself; of one that has others beside it, that of its own agents."""
    hub = server.parts.hub
    tasks: dict[str, asyncio.Task[None]] = vars(vars(hub).get("_local", hub))["_rotating"]
    return tasks


async def enroll(
    server: Running, token: str | None, agent_id: str, secret: str, name: str = "box"
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
    body = {
        "agent": {"id": agent_id, "name": name, "version": "1"},
        "secret_sha256": secrets.sha256(secret),
    }
    return await server.http.post("/api/v1/agents/enroll", headers=headers, json=body)


def reason(answer: httpx.Response) -> str:
    found: str = answer.json()["error"]["detail"]["reason"]
    return found


async def test_a_join_token_lets_one_agent_in_and_a_repeat_repeats_the_answer(server: Running) -> None:
    token, _ = await join_token(server, note="for the lab")
    agent_id = uuid7()
    first = await enroll(server, token, agent_id, "mine")
    assert first.status_code == 200
    assert first.json() == {"agent_id": agent_id, "server": {"name": "obt-server", "version": "test"}}
    again = await enroll(server, token, agent_id, "mine")
    assert again.json() == first.json()
    other = await enroll(server, token, uuid7(), "theirs")
    assert (other.status_code, reason(other)) == (401, "used")
    changed = await enroll(server, token, agent_id, "another secret")
    assert reason(changed) == "used"
    async with dial(server.url, "mine", agent_id) as agent:
        await agent.hello()
    listed = (await server.http.get("/api/v1/join-tokens")).json()
    assert (listed[0]["note"], listed[0]["used_by"]) == ("for the lab", agent_id)
    assert "secret" not in listed[0]


@sqlite_alone
async def test_nothing_secret_is_in_the_database(server: Running, tmp_path: Path) -> None:
    token, _ = await join_token(server)
    await enroll(server, token, uuid7(), "the agent's own secret")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secrets.sha256(token).encode() in stored
    assert token.encode() not in stored
    assert b"the agent's own secret" not in stored


async def test_join_tokens_that_are_unknown_revoked_or_expired_are_refused(server: Running) -> None:
    assert reason(await enroll(server, "guess", uuid7(), "s")) == "unknown"
    assert reason(await enroll(server, None, uuid7(), "s")) == "missing"
    token, number = await join_token(server)
    assert (await server.http.delete(f"/api/v1/join-tokens/{number}")).status_code == 204
    assert reason(await enroll(server, token, uuid7(), "s")) == "revoked"
    assert (await server.http.delete("/api/v1/join-tokens/999")).status_code == 404
    storage = server.parts.storage
    await storage.create_join_token(secrets.sha256("old"), note="", agent_id=None, at=1.0, expires_at=2.0)
    assert reason(await enroll(server, "old", uuid7(), "s")) == "expired"


async def test_guessing_join_tokens_is_slowed_down(server: Running) -> None:
    for _ in range(20):
        await enroll(server, "guess", uuid7(), "s")
    refused_on(server)
    answer = await enroll(server, "guess", uuid7(), "s")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


async def test_what_others_try_at_an_address_keeps_no_good_join_token_out(server: Running) -> None:
    token, _ = await join_token(server)
    agent_id = uuid7()
    for _ in range(20):  # as a deleted agent does that dials on
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with dial(server.url, "forgotten", agent_id):
                pass
        assert refused.value.response.status_code == 401
    refused_on(server)
    assert (await enroll(server, "guess", uuid7(), "s")).status_code == 429, "unknown ones count together"
    assert (await enroll(server, token, uuid7(), "mine")).status_code == 200
    for _ in range(20):
        assert reason(await enroll(server, token, uuid7(), "theirs")) == "used"
    refused_on(server, ("join token", secrets.sha256(split_join_token(token)[0])))
    assert (await enroll(server, token, uuid7(), "theirs")).status_code == 429, "counts for itself"
    other, _ = await join_token(server)
    assert (await enroll(server, other, uuid7(), "other")).status_code == 200


async def test_an_identity_with_a_valid_credential_is_not_taken_by_another_join(server: Running) -> None:
    agent_id, _ = await server.enrol("victim")
    token, _ = await join_token(server)
    taken = await enroll(server, token, agent_id, "thief")
    assert (taken.status_code, taken.json()["error"]["kind"]) == (409, "identity_taken")
    assert (await enroll(server, token, uuid7(), "honest")).status_code == 200, "the token stays good"
    own, _ = await join_token(server, agent="victim")
    wrong = await enroll(server, own, uuid7(), "thief")
    assert reason(wrong) == "other_agent"
    assert (await enroll(server, own, agent_id, "new")).status_code == 200
    async with dial(server.url, "new", agent_id) as agent:
        await agent.hello()


async def test_a_secret_of_another_agent_is_refused(server: Running) -> None:
    first, second = (await join_token(server))[0], (await join_token(server))[0]
    await enroll(server, first, uuid7(), "same")
    assert (await enroll(server, second, uuid7(), "same")).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"agent": {"id": "no uuid", "name": "x", "version": "1"}, "secret_sha256": "0" * 64},
        {"agent": {"id": str(uuid7()), "name": "", "version": "1"}, "secret_sha256": "0" * 64},
        {"agent": {"id": str(uuid7()), "name": "x", "version": "1"}, "secret_sha256": "no hash"},
    ],
)
async def test_an_enrolment_of_another_shape_is_answered_422(server: Running, body: dict[str, Any]) -> None:
    token, _ = await join_token(server)
    headers = {"Authorization": f"Bearer {token}"}
    answer = await server.http.post("/api/v1/agents/enroll", headers=headers, json=body)
    assert answer.status_code == 422


PIN = "sha256-" + "A" * 43


async def test_a_join_token_names_the_servers_key_and_works_with_and_without_it(tmp_path: Path) -> None:
    async with running(tmp_path, join_pins=(PIN,), pins=(PIN,)) as server:
        text, _ = await join_token(server)
        secret, pins = split_join_token(text)
        assert pins == (PIN,)
        agent_id = uuid7()
        assert (await enroll(server, secret, agent_id, "mine")).status_code == 200
        assert (await enroll(server, text, agent_id, "mine")).status_code == 200, "the same token"
        async with dial(server.url, "mine", agent_id) as agent:
            assert (await agent.hello()).pins == (PIN,)


async def rotate(_: AgentDouble, request: Request) -> Answer:
    rotation_id = msgspec.json.decode(request.params)["rotation_id"]
    return {"rotation_id": rotation_id, "sha256": secrets.sha256("the next one")}


async def states(server: Running) -> list[str]:
    return [one["state"] for one in (await server.http.get("/api/v1/credentials")).json()]


async def is_alone(server: Running) -> bool:
    return await states(server) == ["current"]


async def test_rotation_keeps_the_old_credential_until_the_new_ones_hello_is_answered(
    server: Running,
) -> None:
    agent_id, old = await server.enrol()
    async with server.agent(credentials=(agent_id, old)) as agent:
        agent.handlers["credentials.rotate"] = rotate
        answer = await server.http.post(f"/api/v1/agents/{agent_id}/credentials/rotate")
        assert answer.json() == {"started": True}
        assert await states(server) == ["current", "candidate"]
    async with server.agent(credentials=(agent_id, old)):
        assert await states(server) == ["current", "candidate"], "the old one still opens"
    async with dial(server.url, "the next one", agent_id):
        assert await states(server) == ["current", "candidate"], "no hello yet"
    async with server.agent(credentials=(agent_id, "the next one")):
        # Stored behind the hello's answer, while reads go beside the writer.
        await until(lambda: is_alone(server))
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with dial(server.url, old, agent_id):
            pass
    assert refused.value.response.status_code == 401


async def test_a_new_credential_that_cannot_be_stored_as_such_leaves_no_session(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id, old = await server.enrol()
    async with server.agent(credentials=(agent_id, old)) as agent:
        agent.handlers["credentials.rotate"] = rotate
        await server.http.post(f"/api/v1/agents/{agent_id}/credentials/rotate")

    async def away(_: int) -> None:
        raise StorageFailed("away", retry_after_ms=1)

    with monkeypatch.context() as patched:
        patched.setattr(server.parts.storage, "promote", away)
        async with dial(server.url, "the next one", agent_id) as double:
            await double.hello()
            assert (await double.until_closed())[0] == Close.DRAINING
    assert server.parts.hub.presence(agent_id) is None
    async with server.agent(credentials=(agent_id, "the next one")):
        await until(lambda: is_alone(server))


async def test_rotation_can_have_the_agent_dial_again_at_once(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["credentials.rotate"] = rotate
        path = f"/api/v1/agents/{agent.agent_id}/credentials/rotate"
        assert (await server.http.post(path, json={"reconnect": True})).json() == {"started": True}
        code, text = await agent.until_closed()
        assert (code, "rotated" in text) == (1001, True)


async def test_a_rotation_for_an_absent_agent_waits_for_it(server: Running) -> None:
    credentials = await server.enrol()
    path = f"/api/v1/agents/{credentials[0]}/credentials/rotate"
    assert (await server.http.post(path)).json() == {"started": False}
    await server.parts.hub.enforce_credentials()
    assert (await server.http.get("/api/v1/credentials")).json()[0]["rotation_requested"] is True
    async with server.agent(credentials=credentials) as agent:
        hub = server.parts.hub
        await hub.enforce_credentials()
        await until(lambda: agent.requests)
        await until(lambda: not rotating(server))
        assert await states(server) == ["current"], "this agent refused, and is asked again later"
        agent.handlers["credentials.rotate"] = rotate
        await hub.enforce_credentials()
        await until(lambda: not rotating(server))
        assert await states(server) == ["current", "candidate"]
        agent.handlers["credentials.rotate"] = rotate
        await server.http.post(path)
        assert await states(server) == ["current", "candidate"], "a repeat replaces the candidate"


async def test_an_answer_to_a_rotation_that_holds_no_hash_is_refused(server: Running) -> None:
    async def nonsense(*_: object) -> Answer:
        return {"rotation_id": "x", "sha256": "the secret itself"}

    async with server.agent() as agent:
        agent.handlers["credentials.rotate"] = nonsense
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/credentials/rotate")
        assert answer.status_code == 422
        assert await states(server) == ["current"]


async def test_revocation_ends_the_live_session_and_says_so_at_every_dial(server: Running) -> None:
    agent_id, secret = await server.enrol()
    async with server.agent(credentials=(agent_id, secret)) as agent:
        path = f"/api/v1/agents/{agent_id}/credentials/revoke"
        assert (await server.http.post(path)).json() == {"revoked": 1}
        assert await agent.until_closed() == (4401, "revoked")
        assert (await server.http.post(path)).json() == {"revoked": 0}
    async with dial(server.url, secret, agent_id) as agent, asyncio.timeout(20):
        await agent.socket.wait_closed()
        assert (agent.socket.close_code, agent.socket.close_reason) == (4401, "revoked")
    token, _ = await join_token(server)
    assert (await enroll(server, token, agent_id, "fresh")).status_code == 200, "enrolled anew"


async def test_a_revocation_by_another_process_takes_effect_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.router.ENFORCE_EVERY_S", 0.01)
    async with running(tmp_path) as server, server.agent() as agent:
        checks = 0
        storage = server.parts.storage
        revoked = storage.revoked

        async def failing_once(credential_ids: Sequence[int]) -> list[int]:
            nonlocal checks
            checks += 1
            if checks == 1:
                raise OSError("the disk hiccups")
            return await revoked(credential_ids)

        storage.revoked = failing_once  # type: ignore[method-assign]  # a storage that fails once
        await until(lambda: checks > 0)  # a check that had begun before is over
        await storage.revoke_credentials(agent.agent_id, 1.0)
        assert await agent.until_closed() == (4401, "revoked")
        assert checks > 1


async def test_an_agent_that_does_not_answer_a_rotation_keeps_nobody_from_being_locked_out(
    server: Running,
) -> None:
    hub, storage = server.parts.hub, server.parts.storage
    async with server.agent("silent") as silent, server.agent("other") as other:
        silent.handlers["credentials.rotate"] = never
        await storage.request_rotation(silent.agent_id, 1.0)
        await hub.enforce_credentials()
        await silent.until(lambda: bool(silent.requests))
        await storage.revoke_credentials(other.agent_id, 1.0)
        await hub.enforce_credentials()
        assert await other.until_closed() == (4401, "revoked")
        # It was asked once.
        assert len(silent.requests) == 1


async def test_who_is_revoked_while_it_makes_its_next_credential_gets_none(server: Running) -> None:
    storage = server.parts.storage
    async with server.agent() as agent:

        async def revoked_meanwhile(double: AgentDouble, request: Request) -> Answer:
            # By the command line, of which this process learns later.
            await storage.revoke_credentials(agent.agent_id, 1.0)
            return await rotate(double, request)

        agent.handlers["credentials.rotate"] = revoked_meanwhile
        refused = await server.http.post(f"/api/v1/agents/{agent.agent_id}/credentials/rotate")
        assert refused.json()["error"]["kind"] == "link_lost", refused.text
        assert await agent.until_closed() == (4401, "revoked")
    assert await states(server) == ["revoked"]


async def test_a_revoked_candidate_is_not_promoted(server: Running) -> None:
    agent_id, _ = await server.enrol()
    storage = server.parts.storage
    (first,) = await storage.credentials()
    assert await storage.add_candidate(first.id, secrets.sha256("next"))
    credential = await storage.credential(secrets.sha256("next"))
    assert credential is not None
    await storage.revoke_credentials(agent_id, 1.0)
    await storage.promote(credential.id)
    await storage.promote(4711)
    found = await storage.credential(secrets.sha256("next"))
    assert found is not None
    assert found.state == "revoked"


async def test_a_credential_says_when_it_was_last_admitted(server: Running) -> None:
    credentials = await server.enrol()
    before = (await server.http.get("/api/v1/credentials")).json()
    async with server.agent(credentials=credentials):
        after = (await server.http.get("/api/v1/credentials")).json()
    assert [one["last_used_at"] is None for one in (before[0], after[0])] == [True, False]
