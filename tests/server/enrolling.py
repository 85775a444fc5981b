"""Agents enrolled as all are: with a join token, at the storage."""

import secrets

from obt_server.hub.storage import AgentRecord
from obt_server.storage import Enrolment, ServerStorage


async def enrol(storage: ServerStorage, enrolment: Enrolment, at: float) -> AgentRecord:
    """Issue a join token for anybody, and use it up."""
    token = secrets.token_hex(32)
    await storage.create_join_token(token, note="", agent_id=None, at=at, expires_at=at + 60)
    return await storage.enroll(token, enrolment, at)
