"""What Ollama's refusals mean: a status and a body become one of our errors, which says what to do. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from obt_agent.errors import DeadlineExceeded, ModelNotFound, OllamaError, OllamaUnavailable, StreamIncomplete

MAX_MESSAGE_CHARS: Final = 1000
_NAME_CHARS: Final = 512

_NOT_FOUND: Final = re.compile(r"""^model ['"](?P<name>.*?)['"] not found""")
_HOST_PATH: Final = re.compile(r"(?<![\w./:@-])/(?:[^\s:\"'/]+/)+[^\s:\"',]*")
_BUSY: Final = "server busy"
_RUNNER_ENDED: Final = (
    "unexpected EOF",
    "process has terminated",
    "llama runner process",
    "wsarecv",
    "connection reset",
)
_REQUEST_AT_FAULT: Final = range(400, 500)
_MEMORY: Final = (
    "signal: killed",
    "out of memory",
    "requires more system memory",
    "cudaMalloc",
    "unable to allocate",
)


def refused(status: int, content_type: str, body: bytes) -> OllamaError:
    """The error for a response whose status is not 200."""
    message = _message_of(body)
    if message is not None:
        return explained(message, status)
    if status == 403:  # noqa: PLR2004 - HTTP's number for forbidden
        return _error(
            "Ollama refuses this Host or Origin header (403); list the agent's address in OLLAMA_ORIGINS, "
            "or set ollama.url to the address that Ollama listens on.",
            status,
        )
    if "html" in content_type or 300 <= status < 400:  # noqa: PLR2004 - HTTP's range of redirects
        return not_ollama(f"answers {status} with {content_type or 'no content'}", status)
    if status in {404, 405}:
        return _error(
            f"This Ollama has no such function ({status} {_text(body)}); it may be too old: update Ollama.",
            status,
        )
    if status in {502, 503, 504}:
        return unavailable(f"Something in front of Ollama answers {status}; is Ollama running?")
    return _error(f"Ollama answers {status}: {_text(body) or 'no message'}.", status)


def explained(message: str, status: int) -> OllamaError:
    """The error for a message of Ollama's own, in a body or in a stream's ``error`` line (status 200)."""
    said = shown(_nested(message))
    missing = _NOT_FOUND.match(message)
    if missing:
        return _model_not_found(missing["name"], said, status)
    if _BUSY in message:
        return _error(
            f"Ollama's queue is full ({said}); try again, or raise OLLAMA_MAX_QUEUE.",
            status,
            said,
            retryable=True,
        )
    if any(word in message for word in _MEMORY):
        return _error(
            f"Ollama could not hold the model in memory ({said}); choose a smaller model or quantization, a "
            "smaller num_ctx, or unload other models.",
            status,
            said,
        )
    if status not in _REQUEST_AT_FAULT and any(word in message for word in _RUNNER_ENDED):
        return _error(
            f"The process that runs the model ended ({said}); the next request loads the model again. "
            "Ollama's log says why.",
            status,
            said,
            retryable=True,
        )
    return _error(f"Ollama answers: {said}", status, said)


def not_ollama(what: str, status: int) -> OllamaError:
    """The error for an answer that no Ollama gives."""
    return _error(f"What answers at ollama.url is not Ollama: it {what}. Correct ollama.url.", status)


def unavailable(message: str) -> OllamaUnavailable:
    """The error for an Ollama that does not answer."""
    return OllamaUnavailable(message)


def ended_early(*, broken: bool, lines: int) -> StreamIncomplete:
    """The error for a stream without its final line; ``broken`` when the connection broke under it."""
    if broken:
        return StreamIncomplete(
            f"The connection to Ollama broke after {lines} lines: Ollama was stopped or killed. Start it, "
            "then repeat the request.",
            retryable=True,
            cause="connection_lost",
            lines=lines,
        )
    return StreamIncomplete(
        f"Ollama ended the stream after {lines} lines with no final line, as it does when a model "
        "repeats one token more than 30 times. Change the prompt, or raise temperature or repeat_penalty.",
        cause="no_final_line",
        lines=lines,
    )


def too_late(waited_for: str, seconds: float, key: str) -> DeadlineExceeded:
    """The error for a wait that ended at its deadline; ``key`` is the deadline's key under ``ollama``."""
    return DeadlineExceeded(
        f"Ollama gave no {waited_for} within {seconds:g} s; is it overloaded? ollama.{key} sets this limit.",
        waited_for=waited_for,
        limit_s=float(seconds),
    )


def shown(message: str) -> str:
    """A message of Ollama's as it may leave the machine: paths of the host removed, length bounded."""
    return _HOST_PATH.sub("(a file of the host)", message)[:MAX_MESSAGE_CHARS]


def _model_not_found(missing: str, said: str, status: int) -> ModelNotFound:
    name = shown(missing)[:_NAME_CHARS]
    what = (
        f"Ollama has no model {name!r}; pull it with: ollama pull {name}"
        if name
        else 'The request names no model; set "model".'
    )
    return ModelNotFound(what, status=status, ollama_message=said, model=name)


def _error(
    message: str, status: int, said: str | None = None, *, retryable: bool | None = None
) -> OllamaError:
    return OllamaError(message, retryable=retryable, status=status, ollama_message=said)


def _message_of(body: bytes) -> str | None:
    """The text of ``{"error": …}``: a string, or OpenAI's object around one."""
    match _decoded(body):
        case {"error": str(message)} | {"error": {"message": str(message)}}:
            return message
        case _:
            return None


def _nested(message: str) -> str:
    """The runner's own message where Ollama passes on its JSON in the string."""
    return (_message_of(message.encode()) or message) if message.startswith("{") else message


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(body: bytes) -> str:
    return " ".join(shown(body[:200].decode(errors="replace")).split())
