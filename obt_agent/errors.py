"""The tree of errors that the project raises on purpose.

AgentError (kind, retryable)
 ├── ConfigError            the configuration cannot be used; the process exits 78
 ├── LinkLost               the socket to the server ended under a request or a stream
 ├── AdmissionRefused       the server would not admit the agent (see ``obt_agent.link``)
 ├── ProtocolError          a frame or message breaks the protocol
 │    ├── InvalidParams     parameters of a known method are wrong
 │    └── UnknownCommand    no such method
 ├── OllamaError            Ollama answered with an error, or with something that is not an answer
 │    ├── OllamaUnavailable nothing answers at Ollama's address
 │    ├── ModelNotFound     Ollama, or the registry that it asks, has no such model
 │    └── StreamIncomplete  a stream ended without its final line
 ├── DeadlineExceeded       something took longer than it may
 ├── Cancelled              the caller cancelled the command (not asyncio's CancelledError)
 ├── NotPermitted           the host's owner does not allow it
 ├── Busy                   a limit on concurrent work is reached
 ├── TooLarge               a message, line or prompt is over its limit
 ├── Unsupported            this machine, or this Ollama, cannot do it
 ├── JobNotFound, JobConflict
 ├── StorageLow             a model does not fit the disk that holds Ollama's models
 ├── DigestDiffers          a pull gave another version of the model than was asked for
 ├── StorageFailed          the job store cannot be read or written now
 │    └── StorageFull       the disk or the quota has no room
 └── HardwareError          a reading failed (never leaves ``obt_agent.hardware``)

``kind`` is the stable word that crosses the wire in ``error.data.kind``; ``obt_agent.protocol.errors``
maps it to a JSON-RPC code. A message tells a person what to do next. ``detail`` holds only JSON scalars
that may be shown to the server: no secret, no path of the host, no traceback.
"""

from __future__ import annotations

from typing import ClassVar

Scalar = str | int | float | bool | None
"""What a detail may hold."""


class AgentError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what happened and what to do, for a person.
        retryable: whether the same request may succeed later; the class's default when omitted.
        retry_after_ms: earliest sensible retry in milliseconds, if known.
        detail: JSON scalars that help a program, safe to show to the server.
    """

    kind: ClassVar[str] = "internal"
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        **detail: Scalar,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
        self.detail: dict[str, Scalar] = detail


class ConfigError(AgentError):
    """The configuration cannot be used."""

    kind = "config"


class LinkLost(AgentError):
    """The session ended before the answer."""

    kind = "link_lost"
    retryable_by_default = True


class AdmissionRefused(AgentError):
    """The server refused the connection or the hello."""

    kind = "admission_refused"
    retryable_by_default = True


class ProtocolError(AgentError):
    """A frame or message breaks the protocol."""

    kind = "invalid_request"


class InvalidParams(ProtocolError):
    """Parameters of a known method are wrong; the message names the field's path."""

    kind = "invalid_params"


class UnknownCommand(ProtocolError):
    """The method is not known here."""

    kind = "unknown_method"


class OllamaError(AgentError):
    """Ollama answered with an error (``status`` and ``ollama_message`` in detail)."""

    kind = "ollama_error"


class OllamaUnavailable(OllamaError):
    """Nothing that speaks Ollama's API answers at the configured address."""

    kind = "ollama_unavailable"
    retryable_by_default = True


class ModelNotFound(OllamaError):
    """Ollama, or the registry that it asks, has no model of that name."""

    kind = "model_not_found"


class StreamIncomplete(OllamaError):
    """Ollama ended a stream with no final line."""

    kind = "stream_incomplete"


class DeadlineExceeded(AgentError):
    """A deadline passed (``waited_for`` in detail says which)."""

    kind = "timeout"
    retryable_by_default = True


class Cancelled(AgentError):
    """The caller cancelled the command."""

    kind = "cancelled"


class NotPermitted(AgentError):
    """The host's owner does not allow it (``policy_key`` in detail names the line)."""

    kind = "not_permitted"


class Busy(AgentError):
    """A limit on concurrent work is reached."""

    kind = "busy"
    retryable_by_default = True


class TooLarge(AgentError):
    """Something is over its limit."""

    kind = "too_large"


class Unsupported(AgentError):
    """It cannot be done here."""

    kind = "unsupported"


class JobNotFound(AgentError):
    """No job of that id is stored."""

    kind = "job_not_found"


class JobConflict(AgentError):
    """The job id is taken by a job with other parameters."""

    kind = "job_conflict"


class StorageLow(AgentError):
    """A model does not fit the disk that holds Ollama's models.

    In detail ``needed_bytes`` (still to come) and ``free_bytes``, where they are known.
    """

    kind = "storage_low"


class DigestDiffers(AgentError):
    """A pull gave another version of the model than was asked for (``wanted`` and ``digest`` in detail)."""

    kind = "digest_differs"


class StorageFailed(AgentError):
    """The job store cannot be read or written now; the message says why."""

    kind = "storage_failed"
    retryable_by_default = True


class StorageFull(StorageFailed):
    """The disk or the quota has no room for the job's result."""

    kind = "storage_full"


class HardwareError(AgentError):
    """A reading failed."""

    kind = "hardware"
