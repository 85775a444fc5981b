"""``POST /agents/enroll``: an agent with a join token gets its credential accepted."""

from __future__ import annotations

import time
import uuid
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from obt_agent.protocol.admission import ServerIdentity
from obt_agent.protocol.server_key import split_join_token
from obt_server.auth import secrets
from obt_server.auth.operators import TooManyAttempts, bearer
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, client_address, now
from obt_server.storage import Enrolment, JoinRefused


class EnrollingAgent(BaseModel):
    """Who enrols. ``id`` is a UUID that the agent made once and keeps."""

    id: uuid.UUID
    name: Annotated[str, Field(min_length=1, max_length=200)]
    version: Annotated[str, Field(min_length=1, max_length=200)]


class EnrollRequest(BaseModel):
    """The agent keeps its secret, and sends the sha256 of it in hexadecimal."""

    agent: EnrollingAgent
    secret_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class EnrollAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The agent may dial from now on."""

    agent_id: str
    server: ServerIdentity


def routes(context: Context) -> APIRouter:
    """The route."""
    router = api_router(context, "enrolment", responses.GATED | responses.PUBLIC, public=True)

    @router.post("/agents/enroll", summary="Enrol an agent with a join token (Authorization: Bearer)")
    async def enroll(body: EnrollRequest, request: Request) -> EnrollAnswer:
        token = bearer(request)
        if token is None:
            raise JoinRefused("Send the join token as Authorization: Bearer.", reason="missing")
        enrolment = Enrolment(
            # In the one form that UUIDs have: another spelling would be another agent.
            agent_id=str(body.agent.id),
            name=body.agent.name,
            version=body.agent.version,
            secret_sha256=body.secret_sha256,
        )
        # An agent that pins nothing may send the text as it was given to it.
        secret, _ = split_join_token(token)
        sha256 = secrets.sha256(secret)
        # Looked up first, as credentials are: what others try at an address keeps no good token out. A known
        # one that is refused counts for itself. Unknown ones count with unknown credentials: both are doors
        # for the same stranger.
        known = await context.storage.join_token(sha256) is not None
        key = ("join token", sha256) if known else client_address(request)
        wait = context.joins.wait_s(key, time.monotonic())
        if wait > 0:
            raise TooManyAttempts("Too many refused join tokens.", retry_after_ms=int(wait * 1000) + 1)
        try:
            agent = await context.storage.enroll(sha256, enrolment, now())
        # A taken identity is no guess, and does not count.
        except JoinRefused:
            context.joins.failed(key, time.monotonic())
            raise
        audit.sender("join token", "join token")
        audit.note(agent.id)
        # It is on every open page before it has dialled for the first time.
        context.hub.directory.changed(agent.id)
        settings = context.hub.settings
        return EnrollAnswer(
            agent_id=agent.id, server=ServerIdentity(name=settings.name, version=settings.version)
        )

    return router
