"""Errors as HTTP answers: ``{"error": {kind, message, retryable, retry_after_ms?, detail}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from obt_agent.errors import AgentError, Busy, InvalidParams, LinkLost
from obt_server.replica_storage import LeaseLost
from obt_server.storage import StorageUnavailable

# What goes wrong behind this server (the agent, its Ollama) is 502 or 504, so that nobody looks for the fault
# in the request; what an operator can wait out is 429 or 503.
STATUS_OF_KIND: Final[Mapping[str, int]] = {
    "agent_unknown": 404,
    "agent_ambiguous": 409,
    "job_ambiguous": 409,
    "name_taken": 409,
    "agent_offline": 409,
    "draining": 503,
    "bus_unavailable": 503,
    "owner_unknown": 503,
    "not_found": 404,
    "join_refused": 401,
    "identity_taken": 409,
    "sign_in_refused": 401,
    "too_many_attempts": 429,
    "invalid_params": 422,
    "invalid_request": 400,
    "unknown_method": 404,
    "ollama_unavailable": 502,
    "model_not_found": 404,
    "busy": 429,
    "cancelled": 409,
    "not_permitted": 403,
    "timeout": 504,
    "ollama_error": 502,
    "too_large": 413,
    "job_not_found": 404,
    "job_open": 409,
    "rollout_open": 409,
    "campaign_open": 409,
    "unsupported": 501,
    "stream_incomplete": 502,
    "job_conflict": 409,
    "storage_full": 507,
    "storage_failed": 507,
    "link_lost": 502,
}


class NoLeader(Busy):
    """No server process leads at this moment, or it cannot be reached; nothing was done."""


class LeaderLost(LinkLost):
    """The leader did not answer a request that it may have carried out."""

    retryable_by_default = False


class JobOpen(AgentError):
    """The job has not ended."""

    kind = "job_open"


def error_object(error: AgentError) -> dict[str, Any]:
    """An error as REST, SSE and WebSocket show it."""
    body: dict[str, Any] = {
        "kind": error.kind,
        "message": error.message,
        "retryable": error.retryable,
        "detail": error.detail,
    }
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = error.retry_after_ms
    return body


def wrong_request(error: RequestValidationError, content_type: str) -> InvalidParams:
    """A body, query or path that is not of the described shape, in the words of every other error.

    ``field`` in detail names the first place that is wrong, such as ``body.plan`` or ``query.limit``.
    """
    # The framework takes a body without the header for text, and would say that it is no object.
    wrong = error.errors()
    if wrong[0]["loc"] == ("body",) and "json" not in content_type:
        return InvalidParams(
            "The body was not sent as JSON; add the header Content-Type: application/json.", field="body"
        )
    places = [".".join(map(str, one["loc"])) for one in wrong[:_MAX_REPORTED]]
    messages = [f"{place}: {_message(one)}" for place, one in zip(places, wrong, strict=False)]
    return InvalidParams(f"{'; '.join(messages)}.", field=places[0])


_MAX_REPORTED: Final = 5


def _message(wrong: Mapping[str, Any]) -> str:
    """What the validation says; of a body that is no JSON, what its parser says."""
    return f"{wrong['msg']}: {wrong['ctx']['error']}" if wrong["type"] == "json_invalid" else wrong["msg"]


MOST_RETRY_AFTER_MS: Final = 3_600_000


def error_response(error: AgentError) -> JSONResponse:
    """An error as an HTTP answer."""
    headers = {}
    if error.retry_after_ms is not None:
        wait_ms = min(max(error.retry_after_ms, 0), MOST_RETRY_AFTER_MS)  # an agent may have said anything
        headers["Retry-After"] = str(math.ceil(wait_ms / 1000))
    # A kind that is not listed is a newer agent's: it came from there, so the gateway's status fits.
    status = STATUS_OF_KIND.get(error.kind, 502)
    # Of its kind on the wire, but the server's own: whoever asks waits, and nobody has to make room.
    if isinstance(error, StorageUnavailable | LeaseLost | NoLeader):
        status = 503
    return JSONResponse({"error": error_object(error)}, status_code=status, headers=headers)


def failure(
    status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error that is no exception."""
    body = {"kind": kind, "message": message, "retryable": False, "detail": {}}
    return JSONResponse({"error": body}, status_code=status, headers=headers)
