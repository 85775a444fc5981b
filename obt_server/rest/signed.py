"""Signed requests: prepare the text, which somebody signs elsewhere, and pass on what was signed.

This server holds no key, and what it prepares binds nobody: who signs reads the text first, and an agent runs
what the signed text says.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec, limits, signed
from obt_server.hub.command_params import checked
from obt_server.hub.jobs import check_job_id, new_job_id
from obt_server.rest import audit, responses
from obt_server.rest.commands import CHANGING, note_operator
from obt_server.rest.context import Context, api_router

SignedMethod = Literal["run_benchmark", "pull_model", "create_model", "copy_model", "delete_model"]
_VALID_FOR_S: Final = 3600.0


class PrepareRequest(BaseModel):
    """What somebody shall sign."""

    agent: Annotated[str, Field(description="id or unique name")]
    method: SignedMethod
    params: Annotated[dict[str, Any], Field(description="the command's; job_id is made where it is left out")]
    valid_for_s: Annotated[float, Field(gt=0, le=signed.MAX_WINDOW_S)] = _VALID_FOR_S


class PreparedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The text to sign, byte by byte, and what it says. Times are Unix seconds."""

    text: str
    agent_id: str
    method: str
    id: str
    not_before: float
    not_after: float


class SignedRequest(BaseModel):
    """What ``obt-agent sign`` printed."""

    text: Annotated[str, Field(max_length=limits.MAX_FRAME_BYTES)]
    key: Annotated[str, Field(max_length=256)]
    value: Annotated[str, Field(max_length=256)]


def prepare(agent_id: str, method: str, params: dict[str, Any], seconds: float) -> PreparedRequest:
    """Return the text to sign for a request that is valid from now on.

    Raises:
        InvalidParams: the agent would not take the parameters.
    """
    if method in signed.SIGNED_JOBS:
        params = {"job_id": new_job_id(), **params}
    # Here, and not when it is signed and sent: the text cannot be changed then.
    checked(method, params)
    if method in signed.SIGNED_JOBS:
        check_job_id(params["job_id"], "params.job_id")
    text = signed.text_to_sign(agent_id, method, params, time.time(), seconds)
    content = signed.read_text(text)
    return PreparedRequest(
        text=text,
        agent_id=agent_id,
        method=method,
        id=content.id,
        not_before=content.not_before,
        not_after=content.not_after,
    )


def routes(context: Context) -> APIRouter:
    """The routes."""
    router = api_router(context, "signed requests", responses.AGENT)

    @router.post("/signed-requests/prepare", summary="The text to sign, where an agent's owner lists signers")
    @audit.reads_only
    async def prepared(body: PrepareRequest) -> PreparedRequest:
        agent = await context.hub.find(body.agent)
        return prepare(agent.id, body.method, body.params, body.valid_for_s)

    @router.post(
        "/signed-requests",
        responses={200: {"description": "The command's result.", "content": {"application/json": {}}}},
        summary="Have an agent run what was signed",
    )
    async def submit(body: SignedRequest, request: Request) -> Response:
        content = signed.read_text(body.text)
        agent = await context.hub.find(content.agent_id)
        audit.note(agent.id, method=content.method)
        params = codec.convert(content.params, dict[str, Any])
        if content.method in signed.SIGNED_JOBS and params.get("job_id") != content.id:
            # The agent refuses it; the server would have stored a job under an id that nobody signed.
            raise InvalidParams("The text's id is not the job's.", field="body.text")
        # Beside the signature, so that the server's record of the job says what was signed.
        asked = {**params, "signature": body.model_dump()}
        if content.method in CHANGING:
            operator = request.state.principal.name
            asked = await note_operator(context, operator, agent.id, content.method, asked)
        result = await context.hub.call_text(agent.id, content.method, asked)
        return Response(result, media_type="application/json")

    return router
