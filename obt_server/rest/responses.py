"""What OpenAPI says of answers that no return type describes: errors, events, and who may ask."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel, Field

Json = dict[str, Any]
Responses = dict[int | str, Json]


# Pydantic's models, and not msgspec's structs: they are only described here. problems.py makes the errors.
class ErrorBody(BaseModel):
    """Why a request was refused or failed."""

    kind: str = Field(description="a stable word, as in docs/reference/rest.md", examples=["agent_offline"])
    message: str = Field(description="for the person at the screen: what is wrong, and what to do")
    retryable: bool = Field(description="whether the same request may succeed later")
    detail: Json = Field(description="what a program may want to know; depends on kind")
    retry_after_ms: int | None = Field(None, description="when to try again")


class ObtError(BaseModel):
    """The one shape of every error."""

    error: ErrorBody


def failure(description: str, kind: str, message: str, **detail: Any) -> Json:
    """An error of OpenAPI's, with an example."""
    example = {"error": {"kind": kind, "message": message, "retryable": False, "detail": detail}}
    return {
        "description": description,
        "content": {"application/json": {"schema": _SHAPE, "example": example}},
    }


_SHAPE: Final[Json] = {"$ref": "#/components/schemas/ObtError"}
"""By name: the framework would make a validator of a model anew for each route and status."""


PUBLIC: Final[Responses] = {
    401: failure("The secret that was sent is not accepted.", "sign_in_refused", "Wrong name or password."),
    403: failure(
        "A page of another site asked.", "origin_refused", "Requests from pages of another site are refused."
    ),
    421: failure(
        "The request names another host.",
        "origin_refused",
        "This server does not go by that name: see --allowed-host.",
    ),
    422: failure(
        "Parameters are missing or wrong; `detail.field` names the first.",
        "invalid_params",
        "body.agent: Field required.",
        field="body.agent",
    ),
    "default": {"model": ObtError, "description": "Any other error; `kind` says which."},
}
"""Of routes that bring a secret of their own."""

GATED: Final[Responses] = PUBLIC | {
    401: failure(
        "Nobody is signed in.",
        "not_signed_in",
        "Sign in, or send an API token (Authorization: Bearer ...).",
    ),
    "default": {
        "description": "Any other error; `kind` says which.",
        "content": {"application/json": {"schema": _SHAPE}},
    },
}
"""Of every other route."""

AGENT: Final[Responses] = GATED | {
    404: failure(
        "No such agent, or no such thing there.", "agent_unknown", "No agent has the id or name 'box'."
    ),
    409: failure(
        "The agent is not connected, or several bear that name; or what is there forbids it.",
        "agent_offline",
        "The agent is not connected; nothing was sent.",
    ),
}
"""Of routes that name an agent or a job."""


ROLLOUT: Final[Responses] = GATED | {
    404: failure(
        "No such rollout or set, or a machine that nobody has.", "not_found", "There is no rollout '01a2...'."
    ),
    409: failure(
        "What is there forbids it.", "rollout_open", "Rollout 01a2... has not ended: cancel it first."
    ),
}
"""Of routes about rollouts and model sets."""


CAMPAIGN: Final[Responses] = GATED | {
    404: failure(
        "No such campaign or plan, or a machine that nobody has.",
        "not_found",
        "There is no campaign '01a2...'.",
    ),
    409: failure(
        "What is there forbids it.", "campaign_open", "Campaign 01a2... has not ended: cancel it first."
    ),
}
"""Of routes about campaigns."""


def events(*examples: tuple[str, Json]) -> Responses:
    """An answer of server-sent events, with one of each kind."""
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in examples)
    return {
        200: {
            "description": "Server-sent events; a comment line at least every 15 s. What goes wrong "
            "later ends them with an event `error`, whose data is an error's body.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": text}},
        }
    }


# Short, as an example is: a real sample has every reading of the machine.
SAMPLE: Final[Json] = {"t_us": 1000417, "n": 1, "missed": 0, "sample": {"cpu": {"utilization_ratio": 0.07}}}

SECURITY: Final[Json] = {
    "apiToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token (`obtk_...`) of `obt-server operators token` or `POST /api-tokens`.",
    },
    "signIn": {
        "type": "apiKey",
        "in": "cookie",
        "name": "obt_sign_in",
        "description": "The cookie that `POST /session` sets.",
    },
    "joinToken": {"type": "http", "scheme": "bearer", "description": "A one-time join token (`obtj_...`)."},
    "inferenceToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token of scope `inference` (`obti_...`).",
    },
    "metricsToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token of scope `metrics` (`obtm_...`).",
    },
}
_METRICS: Final[list[Json]] = [{"metricsToken": []}, {"apiToken": []}, {"signIn": []}]
# At the root, where probes and Prometheus look for them. To ask whether the server works needs no secret.
_OPERATION: Final[dict[str, list[Json]]] = {"/healthz": [], "/readyz": [], "/metrics": _METRICS}
_OWN_SECRETS: Final[dict[tuple[str, str], list[Json]]] = {
    ("/session", "post"): [],
    ("/agents/enroll", "post"): [{"joinToken": []}],
}


# The router alone says nothing of who may ask: an application that mounts it has users of its own.
def with_security(document: Json, prefix: str) -> Json:
    """The reference application's document with who may ask: an API token or a cookie, mostly."""
    document.setdefault("components", {})["securitySchemes"] = SECURITY
    document["security"] = [{"apiToken": []}, {"signIn": []}]
    for (path, method), allowed in _OWN_SECRETS.items():
        document["paths"][prefix + path][method]["security"] = allowed
    # What else is not below the interface's own prefix is the gateway's.
    for path, operations in document["paths"].items():
        if not path.startswith(prefix):
            for operation in operations.values():
                operation["security"] = _OPERATION.get(path, [{"inferenceToken": []}])
    return document
