"""What Ollama's refusals mean: a status and a body become one of our errors, which says what to do. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from obt_agent.errors import DeadlineExceeded, ModelNotFound, OllamaError, OllamaUnavailable, StreamIncomplete

MAX_MESSAGE_CHARS: Final = 1000
_NAME_CHARS: Final = 512

_NOT_FOUND: Final = re.compile(r"""^model ['"](?P<name>.*?)['"] not found""")
# At least two folders deep and not part of a URL: "and/or" and "library/llama3" are no paths.
_HOST_PATH: Final = re.compile(r"(?<![\w./:@-])/(?:[^\s:\"'/]+/)+[^\s:\"',]*")
# Ollama's messages quote what models wrote, so that a phrase anywhere in one means nothing. Causes are told
# by the status, by how Ollama's own messages begin (llm/server.go, server/sched.go, server/routes.go), and
# by phrases only in what such a beginning says is the runner's own last word.
_QUEUE_FULL: Final = "server busy, please try again"
_TOO_LITTLE_MEMORY: Final = ("model requires more system memory", "cudaMalloc failed")
_BAD_TOOL_CALL: Final = "error parsing tool call"
_RUNNER_ENDED: Final = re.compile(
    r"(?:(?:llama runner|llama-server) process (?:has terminated|no longer running)|CUDA error"
    r"|model runner has unexpectedly stopped|an error was encountered while running the model"
    r"|POST predict|do (?:load|embedding) request|unexpected EOF$"
    r")[:, ]*(?P<cause>[^{]*?)(?:raw=|\{|$)",
    re.IGNORECASE | re.DOTALL,
)
_KILLED_FOR_MEMORY: Final = ("signal: killed", "out of memory", "cudaMalloc failed", "unable to allocate")

_REQUEST_AT_FAULT: Final = range(400, 500)
_REDIRECTS: Final = range(300, 400)
# Sent by what stands before a server that does not answer: 502 and 504 by any, the others by Cloudflare.
_PROXY_STATUSES: Final = frozenset({502, 504, *range(520, 528), 530})
_UNAVAILABLE: Final = 503
_SERVER_ERROR: Final = 500
_PROXY_REMEDIES: Final = {
    401: "asks for a password, and the agent has none; let it pass, or set ollama.url to Ollama itself",
    407: "asks for a password, and the agent has none; let it pass, or set ollama.url to Ollama itself",
    413: "takes no request of this size; raise its limit (client_max_body_size in nginx)",
}


def refused(status: int, content_type: str, body: bytes) -> OllamaError:
    """The error for a response whose status is not 200."""
    message = _message_of(body)
    if message is not None:
        return from_message(message, status)
    if status == 403:  # noqa: PLR2004 - HTTP's number for forbidden
        return _error(
            "Ollama refuses this Host or Origin header (403); list the agent's address in OLLAMA_ORIGINS, "
            "or set ollama.url to the address that Ollama listens on.",
            status,
        )
    is_html = "html" in content_type
    # Before HTML is taken for another program: the pages of a proxy whose Ollama restarts are always HTML.
    if proxy := _from_proxy(status, is_html=is_html):
        return proxy
    if is_html or status in _REDIRECTS:
        return not_ollama(f"answers {status} with {content_type or 'no content'}", status)
    if status in {404, 405}:
        return _error(
            f"This Ollama has no such function ({status} {_text(body)}); it may be too old: update Ollama.",
            status,
        )
    return _error(f"Ollama answers {status}: {_text(body) or 'no message'}.", status)


def _from_proxy(status: int, *, is_html: bool) -> OllamaError | None:
    """What a status means that Ollama does not send, or not as a page."""
    if status in _PROXY_REMEDIES:
        return _error(f"Something in front of Ollama {_PROXY_REMEDIES[status]} ({status}).", status)
    if status in _PROXY_STATUSES or status == _UNAVAILABLE or (is_html and status >= _SERVER_ERROR):
        return _proxy_alone(status)
    return None


def from_message(message: str, status: int) -> OllamaError:
    """The error for a message of Ollama's own, in a body or in a stream's ``error`` line (status 200)."""
    text = shown(_nested(message))
    if missing := _NOT_FOUND.match(message):
        return _model_not_found(missing["name"], text, status)
    if status == _UNAVAILABLE or message.startswith(_QUEUE_FULL):
        return _error(
            f"Ollama's queue is full ({text}); try again, or raise OLLAMA_MAX_QUEUE.",
            status,
            text,
            retryable=True,
        )
    if status in _PROXY_STATUSES:
        return _proxy_alone(status, text)
    if message.startswith(_BAD_TOOL_CALL):
        return _error(f"Ollama could not parse the model's tool call: {text}", status, text)
    return _from_runner(message, text, status) or _error(f"Ollama answers: {text}", status, text)


def _from_runner(message: str, text: str, status: int) -> OllamaError | None:
    """The error where the process that runs the model ended, or lacked memory."""
    ended = None if status in _REQUEST_AT_FAULT else _RUNNER_ENDED.match(message)
    killed = ended is not None and any(phrase in ended["cause"] for phrase in _KILLED_FOR_MEMORY)
    if killed or message.startswith(_TOO_LITTLE_MEMORY):
        return _error(
            f"Ollama could not hold the model in memory ({text}); choose a smaller model or quantization, a "
            "smaller num_ctx, or unload other models.",
            status,
            text,
        )
    if ended is None:
        return None
    return _error(
        f"The process that runs the model ended ({text}); the next request loads the model again. "
        "Ollama's log says why.",
        status,
        text,
        retryable=True,
    )


def _proxy_alone(status: int, text: str | None = None) -> OllamaUnavailable:
    words = f"Something in front of Ollama answers {status}; is Ollama running?"
    return OllamaUnavailable(words, status=status, ollama_message=text)


def not_ollama(what: str, status: int) -> OllamaError:
    """The error for an answer that no Ollama gives."""
    return _error(f"What answers at ollama.url is not Ollama: it {what}. Correct ollama.url.", status)


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


def _model_not_found(missing: str, text: str, status: int) -> ModelNotFound:
    name = shown(missing)[:_NAME_CHARS]
    what = (
        f"Ollama has no model {name!r}; pull it with: ollama pull {name}"
        if name
        else 'The request names no model; set "model".'
    )
    return ModelNotFound(what, status=status, ollama_message=text, model=name)


def _error(
    message: str, status: int, text: str | None = None, *, retryable: bool | None = None
) -> OllamaError:
    return OllamaError(message, retryable=retryable, status=status, ollama_message=text)


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
