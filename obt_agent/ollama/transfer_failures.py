"""What Ollama's errors mean when they end a pull or a creation. Pure.

They come in a line of the stream, with status 200, in the words of Ollama, of Go or of the system. Only how a
message begins or ends is read: names of models stand in the middle.
"""

from __future__ import annotations

import re
from typing import Final

from obt_agent.errors import AgentError, ModelNotFound, OllamaError, StorageLow, StreamIncomplete, Unsupported

_DISK_FULL: Final = ("no space left on device", "disk quota exceeded")
_NO_SUCH_MODEL: Final = "pull model manifest: file does not exist"
# The registry's refusal of a client that is too old for the model's form.
_TOO_OLD: Final = "pull model manifest: 412:"
# What the download before this one, whose client has gone, says to a pull that joins it while it ends.
CANCELED: Final = "context canceled"
# Go's words for a network or a registry that may answer later, and Ollama's for a part that arrived damaged.
_LATER: Final = re.compile(
    r"^(?:max retries exceeded|pull model manifest: (?:429|5\d\d):|digest mismatch).*|.*(?:"
    r"no such host|server misbehaving|connection refused|connection reset by peer|i/o timeout"
    r"|network is unreachable|no route to host|TLS handshake timeout|context deadline exceeded"
    r"|unexpected EOF|: EOF|Client\.Timeout exceeded while awaiting headers\)|unexpected status code 5\d\d)$",
    re.DOTALL,
)


def of_transfer(error: AgentError) -> AgentError:
    """Return the error for a pull or creation that ended with ``error``; its kind says what happened."""
    if isinstance(error, StreamIncomplete):
        message = "Ollama ended the transfer before its end; is it restarting?"
        return _of(StreamIncomplete, message, error, retryable=True)
    text = error.detail.get("ollama_message")
    if type(error) is not OllamaError or not isinstance(text, str):
        return error
    return _worded(error, text)


def _worded(error: AgentError, text: str) -> AgentError:
    """The error for Ollama's own words."""
    if text.endswith(_DISK_FULL):
        return _of(StorageLow, f"The disk that holds Ollama's models is full ({text}).", error)
    if text == _NO_SUCH_MODEL:
        message = "The registry has no such model, or not with this tag; look at the name."
        return _of(ModelNotFound, message, error)
    if text.startswith(_TOO_OLD):
        return _of(Unsupported, "The model needs a newer Ollama; update Ollama on this machine.", error)
    if text == CANCELED or _LATER.match(text):
        return _of(OllamaError, error.message, error, retryable=True)
    return error


def may_come_back(error: AgentError) -> bool:
    """Whether the same request to the same Ollama goes on from here as soon as Ollama answers again."""
    canceled = error.detail.get("ollama_message") == CANCELED
    return canceled or (error.retryable and error.kind in {"ollama_unavailable", "stream_incomplete"})


def _of(
    kind: type[AgentError], message: str, error: AgentError, *, retryable: bool | None = None
) -> AgentError:
    """Another error with the same detail."""
    made = kind(message, retryable=retryable)
    made.detail |= error.detail
    return made
