"""Join tokens, credentials of agents, rotation and revocation."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from obt_agent.protocol.server_key import with_pins
from obt_server.auth import secrets
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, now
from obt_server.storage import CredentialInfo, JoinToken


class NewJoinToken(BaseModel):
    """A join token to be made. One that names an agent can also replace that agent's credential."""

    note: Annotated[str, Field(max_length=200)] = ""
    agent: Annotated[str | None, Field(description="id or unique name of an enrolled agent")] = None
    valid_for_s: Annotated[float, Field(ge=60, le=30 * 86400)] = 3600.0


@dataclass(frozen=True, kw_only=True)
class MadeJoinToken:
    """``secret`` is the token's whole text, shown this once; behind a dot stand pins of the server's keys."""

    secret: str
    token: JoinToken


@dataclass(frozen=True, kw_only=True)
class RotationView:
    """``started``: the agent has made its next credential; else it is asked when it comes."""

    started: bool


@dataclass(frozen=True, kw_only=True)
class RevocationView:
    """How many credentials were revoked."""

    revoked: int


class RotateBody(BaseModel):
    """``reconnect``: close the agent's session afterwards, so that the new credential is used at once."""

    reconnect: bool = False


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "tokens", responses.AGENT)
    hub, storage = context.hub, context.storage

    @router.get("/join-tokens", summary="Join tokens, without their secrets")
    async def join_tokens() -> list[JoinToken]:
        return list(await storage.join_tokens())

    @router.post("/join-tokens", status_code=201, summary="Make a one-time join token")
    async def make(body: NewJoinToken) -> MadeJoinToken:
        # Looked up now: a token for an agent that does not exist would be good for nobody.
        agent_id = None if body.agent is None else (await hub.find(body.agent)).id
        audit.note(*[] if agent_id is None else [agent_id])
        # Its hash alone is stored: who reads the database can enrol nothing.
        secret, at = secrets.new_secret("obtj"), now()
        token = await storage.create_join_token(
            secrets.sha256(secret),
            note=body.note,
            agent_id=agent_id,
            at=at,
            expires_at=at + body.valid_for_s,
        )
        audit.note(token_id=token.id)
        return MadeJoinToken(secret=with_pins(secret, context.join_pins), token=token)

    @router.delete("/join-tokens/{token_id}", status_code=204, summary="Make a join token useless")
    async def revoke_join(token_id: int) -> None:
        await storage.revoke_join_token(token_id, now())

    @router.get("/credentials", summary="Credentials of agents, never the secrets")
    async def credentials() -> list[CredentialInfo]:
        return list(await storage.credentials())

    @router.post("/agents/{agent}/credentials/rotate", summary="Let an agent make its next credential")
    async def rotate(agent: str, body: RotateBody | None = None) -> RotationView:
        found = await hub.find(agent)
        audit.note(found.id)
        # The wish is kept: the server starts it when the agent is next there.
        if found.id not in hub.online():
            await storage.request_rotation(found.id, now())
            return RotationView(started=False)
        await hub.rotate(found.id, str(uuid.uuid4()), reconnect=body is not None and body.reconnect)
        return RotationView(started=True)

    @router.post(
        "/agents/{agent}/credentials/revoke", summary="Revoke an agent's credential, end its session"
    )
    async def revoke(agent: str) -> RevocationView:
        found = await hub.find(agent)
        audit.note(found.id)
        count = await storage.revoke_credentials(found.id, now())
        # At once: without it the session would live until the next look, two seconds later.
        await hub.enforce_credentials()
        return RevocationView(revoked=count)

    return router
