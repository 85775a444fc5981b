"""One request of a client: what it asks, for which machine, and what is counted of its answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import structlog

from obt_agent.errors import ProtocolError
from obt_agent.protocol import codec
from obt_server.auth import InferenceGrant
from obt_server.gateway.errors import GatewayRefused

log = structlog.get_logger(__name__)

JSON: Final = "application/json; charset=utf-8"
"""As Ollama writes it."""
NDJSON: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
TEXT: Final = "text/plain; charset=utf-8"

T = TypeVar("T")


@dataclass(frozen=True)
class AnswerHead:
    """What an answer of status 200 begins with: its media type; its length where that is known."""

    media_type: str
    length: int | None = None


Parts = AsyncGenerator[AnswerHead | bytes, None]
"""An answer: its head, once nothing can be refused any more, then its body."""


class _Counts(msgspec.Struct):
    """What is read of Ollama's last object."""

    prompt_eval_count: int | None = None
    eval_count: int | None = None


@dataclass
class Exchange:
    """A request that was let in.

    Args:
        route: its path below the machine, for the log.
        path_params: what its path names; ``machine`` is an id, a name or ``@label``.
        grant: what its token covers.
        body: what it brought.
        address: where it comes from.
    """

    route: str
    path_params: Mapping[str, str]
    grant: InferenceGrant
    body: bytes
    address: str | None = None
    # of the machine that answers, once it is chosen
    agent_id: str | None = None
    began_at: float = field(default_factory=time.monotonic)
    # when the answer's head was sent
    first_at: float | None = None
    status: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    # whether Ollama's last object has come
    ended: bool = False

    @property
    def target(self) -> str:
        """The machine of the path: an id, a name or ``@label``."""
        return self.path_params["machine"]

    @property
    def chosen_agent(self) -> str:
        """The machine that answers, once it is chosen."""
        if self.agent_id is None:
            raise RuntimeError("no machine was chosen")
        return self.agent_id

    def read(self, kind: type[T]) -> T:
        """Return what the body says of the fields of a type.

        Raises:
            GatewayRefused: it is no JSON object of that shape.
        """
        if not self.body.strip():
            raise GatewayRefused(400, "missing request body")
        try:
            # Before the parser: text of nested brackets costs it stack.
            codec.check_depth(self.body)
            found: T = msgspec.json.decode(self.body, type=kind)
            return found
        except (ProtocolError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise GatewayRefused(400, str(error)) from error

    def count(self, final: bytes) -> None:
        """Note the counts of Ollama's last object."""
        try:
            counts = msgspec.json.decode(final, type=_Counts)
        except msgspec.MsgspecError:
            # An answer without usable counts is passed on all the same.
            return
        self.prompt_tokens, self.output_tokens = counts.prompt_eval_count, counts.eval_count

    def note(self, outcome: str) -> None:
        """Log counts and times, never what was asked or answered."""
        now = time.monotonic()
        log.info(
            "gateway.answered",
            token_id=self.grant.id,
            address=self.address,
            agent=self.agent_id,
            route=self.route,
            status=self.status,
            outcome=outcome,
            first_ms=None if self.first_at is None else _ms(self.first_at - self.began_at),
            total_ms=_ms(now - self.began_at),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )


Work = Callable[[Exchange], Parts]
"""Answers an exchange. Errors before the head become a status; later ones end the stream."""


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def whole(make: Callable[[Exchange], Awaitable[bytes]], media_type: str = JSON) -> Work:
    """Return the work of an answer that is made as one."""

    async def work(exchange: Exchange) -> Parts:
        text = await make(exchange)
        yield AnswerHead(media_type, len(text))
        yield text

    return work
