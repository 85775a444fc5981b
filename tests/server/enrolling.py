"""Agents enrolled as all are: with a join token, at the storage."""

import secrets

from obt_server.hub.storage import AgentRecord
from obt_server.storage import Enrolment, ServerStorage


async def enrol(storage: ServerStorage, enrolment: Enrolment, at: float) -> AgentRecord:
    """Issue a join token for anybody, and use it up."""
    token = secrets.token_hex(32)
    # Tests count from 1970: a server that runs would remove a token that ended then, perhaps before its use.
    await storage.create_join_token(token, note="", agent_id=None, at=at, expires_at=1e12)
    return await storage.enroll(token, enrolment, at)
