"""``POST /agents/{id}/commands/{method}``: every command of the protocol; SSE when it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec, methods
from obt_server.hub.command_params import CommandParams, checked, json_object
from obt_server.hub.commands import STREAMED
from obt_server.hub.jobs import KIND_OF_METHOD, new_job_id
from obt_server.rest import audit, responses
from obt_server.rest.context import Context, api_router, now
from obt_server.rest.sse import EventStream, after_first, event_of_text
from obt_server.rollout_storage import ChangeCause, model_key

FIRST_EVENT_WITHIN_S = 2.0
COMMAND_S = 60.0
"""A command that changes a model explains changes on the machine for so long; a job, until it has ended."""
CHANGING = frozenset(method.name for method in methods.COMMANDS if method.changes)
_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "The command's parameters: docs/reference/protocol.md, docs/schemas/obt.v1.json.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "examples": {
                    "list_models": {"value": {}},
                    "show_model": {"value": {"model": "llama3.2:1b"}},
                    "generate": {"value": {"model": "llama3.2:1b", "prompt": "Why is the sky blue?"}},
                    "cancel": {"value": {"job_id": "8256eb8c-9c7b-4749-be93-6bc499b7f434"}},
                },
            }
        },
    }
}
_ANSWERS: responses.Responses = {
    200: {
        "description": f"The result; or, of {', '.join(sorted(STREAMED))}, events: "
        "`item` for each item, then `final` with the result, or `error`.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}
Method = Annotated[
    str,
    Path(
        description="a command of the protocol",
        json_schema_extra={"enum": [method.name for method in methods.COMMANDS]},
    ),
]


async def read_params(request: Request, most: int) -> bytes:
    """Return the body, or an empty object where there is none.

    Raises:
        InvalidParams: it is longer than ``most`` bytes.
    """
    # Its length was checked against the header before (context.answered); what is read is checked once more.
    body = await request.body()
    if len(body) > most:
        raise InvalidParams(f"The body has {len(body)} bytes; {most} are taken.")
    return body if body.strip() else b"{}"


def routes(context: Context) -> APIRouter:
    """The route."""
    router = api_router(context, "commands", responses.AGENT)

    @router.post(
        "/agents/{agent}/commands/{method}",
        openapi_extra=_BODY,
        responses=_ANSWERS,
        summary="Any command of the protocol",
    )
    async def command(agent: str, method: Method, request: Request) -> Response:
        found = await context.hub.find(agent)
        audit.note(found.id)
        if method in audit.READING_COMMANDS:
            audit.leave_out()
        params = await read_params(request, context.max_body_bytes)
        # A refusal that comes at once is a status; a model that loads for minutes is an open stream
        # meanwhile.
        if method in STREAMED:
            events = stream_events(context, found.id, method, params)
            return EventStream(await after_first(events, FIRST_EVENT_WITHIN_S))
        asked: CommandParams = params
        if method in CHANGING:
            asked = await note_operator(context, request.state.principal.name, found.id, method, params)
        result = await context.hub.call_text(found.id, method, asked)
        return Response(result, media_type="application/json")

    return router


async def note_operator(
    context: Context, operator: str, agent_id: str, method: str, params: CommandParams
) -> dict[str, Any]:
    """Remember who is about to change a model; return the parameters, with a job's id.

    Raises:
        InvalidParams: the parameters do not fit the command.
    """
    fields = codec.convert(json_object(params), dict[str, Any])
    # Before the hub makes one: the history finds the job, and with it how long this holds, by its id.
    if method in KIND_OF_METHOD:
        fields.setdefault("job_id", new_job_id())
    checked(method, fields)
    name, job_id = fields.get("destination") or fields.get("model"), fields.get("job_id")
    if isinstance(name, str) and (job_id is None or isinstance(job_id, str)):
        expires_at = now() + COMMAND_S
        cause = ChangeCause(
            agent_id=agent_id, name=model_key(name), job_id=job_id, operator=operator, expires_at=expires_at
        )
        await context.storage.note_causes([cause])
    return fields


async def stream_events(context: Context, agent_id: str, method: str, params: bytes) -> AsyncIterator[bytes]:
    """A streamed command as events."""
    async with context.hub.stream(agent_id, method, params) as stream:
        async for batch in stream.text_batches():
            yield b"".join(event_of_text("item", item) for item in batch)
        yield event_of_text("final", stream.result_text)
