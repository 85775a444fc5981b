"""Requests that this side sent and that are not answered yet."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

import msgspec

from obt_agent.errors import AgentError
from obt_agent.protocol.envelope import ErrorResponse, RequestId, Response
from obt_agent.protocol.errors import from_wire


class PendingRequests:
    """Answers by request id. Ids count up and are never used twice in a session."""

    def __init__(self) -> None:
        self._next_id = 0
        # By id, until the answer comes or nobody waits any more.
        self._futures: dict[RequestId, asyncio.Future[msgspec.Raw]] = {}
        # What must happen before the next frame is read; only the hello has something.
        self._at_once: dict[RequestId, Callable[[msgspec.Raw], None]] = {}

    def __len__(self) -> int:
        return len(self._futures)

    def expect(
        self, at_once: Callable[[msgspec.Raw], None] | None = None
    ) -> tuple[int, asyncio.Future[msgspec.Raw]]:
        """A fresh id, and the future that gets its result.

        ``at_once`` is called with the result before the next frame is looked at; an ``AgentError`` that it
        raises becomes the future's.
        """
        request_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        if at_once is not None:
            self._at_once[request_id] = at_once
        return request_id, future

    def forget(self, request_id: RequestId) -> None:
        """Nobody waits any more: a late answer is ignored."""
        self._futures.pop(request_id, None)
        self._at_once.pop(request_id, None)

    def answered(self, answer: Response | ErrorResponse) -> bool:
        """Deliver an answer; False when nobody waits for it."""
        future = self._futures.pop(answer.id, None) if answer.id is not None else None
        if future is None or future.done():
            return False
        try:
            future.set_result(self._result(answer))
        except AgentError as error:
            future.set_exception(error)
        return True

    def _result(self, answer: Response | ErrorResponse) -> msgspec.Raw:
        if isinstance(answer, ErrorResponse):
            raise from_wire(answer.error)
        at_once = self._at_once.pop(answer.id, None)
        if at_once is not None:
            at_once(answer.result)
        return answer.result

    def fail_all(self, error: AgentError) -> None:
        """The session is over."""
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if not future.done():
                future.set_exception(copy.copy(error))
                future.exception()  # the waiter may be gone; an error that nobody fetched is not a fault here
