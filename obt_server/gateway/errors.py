"""What goes wrong, in the words and shapes that each kind of client reads. Pure."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from obt_agent.errors import AgentError
from obt_server.rest.problems import STATUS_OF_KIND

# Where a client of Ollama's or OpenAI's expects another status than one of this server's own interface.
_STATUS: Final = {
    **STATUS_OF_KIND,
    # 409 is "conflict" to OpenAI's clients; a machine that is away is a service that is.
    "agent_offline": 503,
    "invalid_params": 400,
    # Ollama's own status for a model that cannot chat, or cannot embed.
    "unsupported": 400,
    "cancelled": 502,
}
_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}
"""As ``NewError`` of Ollama's ``openai/openai.go``; every other status is ``api_error``."""
_FAILED: Final = 500
OFFLINE_RETRY_MS: Final = 5_000
"""Where a 503 names no time: an agent whose link broke dials again within seconds."""
_ERRORS: Final = range(400, 600)


class GatewayRefused(AgentError):
    """The gateway itself refuses a request.

    Args:
        status: of HTTP.
        message: for the person whose program asked.
        retry_after_ms: when to try again, where that helps.
    """

    kind = "gateway_refused"

    def __init__(self, status: int, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.status = status


def described(error: AgentError) -> tuple[int, str]:
    """Return the HTTP status and the message of an error; Ollama's own where it is Ollama that refused."""
    if isinstance(error, GatewayRefused):
        return error.status, error.message
    status, text = error.detail.get("status"), error.detail.get("ollama_message")
    if isinstance(text, str):
        # An error line in a stream that had begun has Ollama's 200; before anything was sent it is a failure.
        return (status if isinstance(status, int) and status in _ERRORS else _FAILED), text
    return _STATUS.get(error.kind, 502), error.message


class Dialect(Protocol):
    """How a kind of client is told of an error."""

    def refusal(self, status: int, message: str) -> bytes:
        """Return the body of an answer with that status."""

    def ending(self, status: int, message: str) -> bytes:
        """Return what ends a stream that has begun."""


class OllamaDialect:
    """``{"error": "..."}``."""

    def refusal(self, status: int, message: str) -> bytes:  # noqa: ARG002 - OpenAI's form needs the status
        """Return the body."""
        return msgspec.json.encode({"error": message})

    def ending(self, status: int, message: str) -> bytes:
        """Return a line of its own."""
        return self.refusal(status, message) + b"\n"


class OpenAiDialect:
    """``{"error": {"message": "...", "type": "...", "param": null, "code": null}}``."""

    def refusal(self, status: int, message: str) -> bytes:
        """Return the body."""
        error: dict[str, Any] = {"message": message, "type": _TYPES.get(status, "api_error")}
        return msgspec.json.encode({"error": error | {"param": None, "code": None}})

    def ending(self, status: int, message: str) -> bytes:
        """Return an event: OpenAI's clients raise what stands in it. No ``[DONE]`` follows."""
        return b"data: " + self.refusal(status, message) + b"\n\n"


OLLAMA: Final = OllamaDialect()
OPENAI: Final = OpenAiDialect()
