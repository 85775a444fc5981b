"""Agents enrolled as all are: with a join token, at the storage or over HTTP."""

from secrets import token_hex

import httpx

from obt_server.auth import secrets
from obt_server.hub.storage import AgentRecord
from obt_server.storage import Enrolment, ServerStorage
from tests.server.agent_double import uuid7


async def enrol(storage: ServerStorage, enrolment: Enrolment, at: float) -> AgentRecord:
    """Issue a join token for anybody, and use it up."""
    token = token_hex(32)
    # Tests count from 1970: a server that runs would remove a token that ended then, perhaps before its use.
    await storage.create_join_token(token, note="", agent_id=None, at=at, expires_at=1e12)
    return await storage.enroll(token, enrolment, at)


async def enrol_over_http(
    operator: httpx.AsyncClient, name: str, agent_id: str | None = None
) -> tuple[str, str]:
    """Do the same as an operator and an agent, of a new id unless one is given; return id and secret."""
    made = (await operator.post("/api/v1/join-tokens", json={"note": name})).json()
    agent_id, secret = agent_id or uuid7(), secrets.new_secret("test")
    answer = await operator.post(
        "/api/v1/agents/enroll",
        headers={"Authorization": f"Bearer {made['secret']}"},
        json={
            "agent": {"id": agent_id, "name": name, "version": "1"},
            "secret_sha256": secrets.sha256(secret),
        },
    )
    assert answer.status_code == 200, answer.text
    return agent_id, secret
