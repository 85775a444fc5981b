"""Commands to tasks, and tasks to exactly one final answer each.

    request -> known? -> allowed? -> owner's limits? -> parameters -> task -> done-callback -> final

How many requests may be in flight, and that no id is used twice at once, is the session's to admit.
The final is written from the task's done-callback: a task that is cancelled before its first step never
reaches an ``except`` of its own. This is also the one place where an exception becomes an error on the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from obt_agent.command import Command
from obt_agent.dispatcher.blobs import Blobs
from obt_agent.dispatcher.inflight import InFlight, Requests
from obt_agent.errors import (
    AgentError,
    Busy,
    Cancelled,
    DeadlineExceeded,
    LinkLost,
    UnknownCommand,
)
from obt_agent.policy import Policy
from obt_agent.policy.signatures import SignatureCheck
from obt_agent.protocol import codec, limits
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.envelope import Notification, Request
from obt_agent.protocol.errors import StreamEnd, to_wire
from obt_agent.protocol.rates import TokenBucket
from obt_agent.protocol.streams import BlobPut, SeriesFinal
from obt_agent.session import Session

log = structlog.get_logger(__name__)

BUSY_RETRY_MS: Final = 1000
STOP_WITHIN_S: Final = 5.0
RATE_BURST_S: Final = 10.0
"""What this many seconds earn may come at once, and never less than one request."""

SWEEP_MARGIN_S: Final = 0.1
SHOWN_CHARS: Final = 64


@dataclass(frozen=True)
class DispatchLimits:
    """Seconds that are not the host's owner's to set: to stop a handler, to keep a blob."""

    stop_within_s: float = STOP_WITHIN_S
    blob_lifetime_s: float = limits.BLOB_LIFETIME_S


class Dispatcher:
    """Implements the link's ``RequestHandler``.

    Args:
        commands: the table of handlers; methods are unique.
        policy: what the host's owner allows.
        bounds: see ``DispatchLimits``.
        budget: what may wait in the process; one of its own unless given.
        agent_id: this agent, which signed requests must name.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        policy: Policy,
        *,
        bounds: DispatchLimits = DispatchLimits(),
        budget: ByteBudget | None = None,
        agent_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commands = {command.method.name: command for command in commands}
        self._policy = policy
        self._clock = clock
        self._bounds = bounds
        self._budget = budget or ByteBudget()
        self._signatures = SignatureCheck(agent_id)
        # Requests a minute that the bucket is made for: the owner may change them while the agent runs.
        self._per_minute: int | None = None
        self._bucket: TokenBucket | None = None
        # By session, from its first request until it ends.
        self._sessions: dict[Session, Requests] = {}
        # Also those whose session is gone: a handler may need a moment to end.
        self._tasks: set[asyncio.Task[Any]] = set()
        # The error that refuses every command while the agent stops; None otherwise.
        self._stopping: AgentError | None = None

    # what the link calls

    def on_request(self, session: Session, request: Request) -> None:
        """Start the command, or answer at once with why not. Never raises, never blocks."""
        requests = self._requests(session)
        try:
            self._admit(session, requests, request)
        except Exception as error:
            if not isinstance(error, AgentError):
                log.exception("command.not_started", method=request.method[:SHOWN_CHARS])
            self._refuse(session, requests, request, error)

    def on_notification(self, session: Session, notification: Notification) -> None:
        """No notification is the dispatcher's: unknown ones are ignored."""
        log.debug("notification.ignored", method=notification.method[:SHOWN_CHARS], session=session.number)

    def session_ended(self, session: Session) -> None:
        """Stop every command of the session at once; nobody is left to answer."""
        requests = self._sessions.pop(session, None)
        if requests is None:
            return
        if requests.sweep is not None:
            requests.sweep.cancel()
        # A handler that still runs has copied what it needs of them.
        requests.blobs.clear()
        for entry in requests:
            self._stop(entry, LinkLost("The session ended."))

    # what the agent calls

    @property
    def in_flight(self) -> int:
        """Commands in flight, of all sessions."""
        return sum(len(list(requests)) for requests in self._sessions.values())

    @property
    def streams(self) -> int:
        """Streams and live series in flight."""
        entries = (entry for requests in self._sessions.values() for entry in requests)
        return sum(entry.command.method.shape != "request" for entry in entries)

    @property
    def blob_bytes(self) -> int:
        """Bytes of blobs held, of all sessions."""
        return sum(requests.blobs.held_bytes for requests in self._sessions.values())

    def stop_accepting(self, why: str = "The agent is stopping; try again when it is back.") -> None:
        """Answer every further command, except ``cancel``, with ``busy``."""
        self._stopping = Busy(why, retry_after_ms=5000)

    async def close(self, within_s: float = STOP_WITHIN_S) -> None:
        """Stop all commands, answer them, and wait for their tasks, at most ``within_s`` seconds.

        A ``cancel`` is let to its end: it is short, and what it withdraws must not come back.
        """
        self.stop_accepting()
        entries = [entry for requests in self._sessions.values() for entry in requests]
        for entry in entries:
            if not entry.command.method.exempt:
                self._stop(entry, Cancelled("The agent is stopping.", retryable=True))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)

    # admission of a command

    def _requests(self, session: Session) -> Requests:
        found = self._sessions.get(session)
        if found is None:
            blobs = Blobs(self._clock, self._budget, lifetime_s=self._bounds.blob_lifetime_s)
            found = Requests(blobs, lambda entry: self._stop(entry, Cancelled("The caller cancelled it.")))
            self._sessions[session] = found
        return found

    def _admit(self, session: Session, requests: Requests, request: Request) -> None:
        if request.method == "blob.put":
            self._put_blob(session, requests, request)
            return
        command = self._command(request.method)
        self._policy.check_command(command.method.name)
        self._check_limits(command)
        raw = self._signatures.params_of(request.method, request.params, self._policy.config.signers)
        if raw is not request.params:
            request = msgspec.structs.replace(request, params=raw)
        params = codec.convert(raw, command.method.params)
        self._start(InFlight(command, request, session, requests, self._budget), params, requests)

    def _command(self, method: str) -> Command:
        command = self._commands.get(method)
        if command is not None:
            return command
        import difflib  # noqa: PLC0415 - 0.2 MB, for servers that send what is no command

        shown = method[:SHOWN_CHARS]
        near = difflib.get_close_matches(shown, self._commands, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownCommand(f"There is no command {shown!r}.{hint}", nearest=near[0] if near else None)

    def _check_limits(self, command: Command) -> None:
        if command.method.exempt:
            return
        if self._stopping is not None:
            raise self._stopping
        wait_s = self._rate_limited_s()
        if wait_s > 0:
            raise Busy(
                "More requests a minute than the host's owner allows.",
                retry_after_ms=int(wait_s * 1000) + 1,
                policy_key="policy.rate_limit",
                allowed=self._policy.config.rate_limit,
            )
        if command.method.shape != "request" and self.streams >= self._policy.max_streams:
            raise Busy(
                f"{self._policy.max_streams} streams are in flight, the most that the host's owner allows.",
                retry_after_ms=BUSY_RETRY_MS,
                policy_key="policy.max_streams",
                allowed=self._policy.max_streams,
            )

    def _rate_limited_s(self) -> float:
        """Seconds until the owner's rate allows another request; 0 when it does now."""
        per_minute, now = self._policy.config.rate_limit, self._clock()
        if per_minute != self._per_minute:
            self._per_minute = per_minute
            per_second = (per_minute or 0) / 60
            burst = max(1.0, per_second * RATE_BURST_S)
            self._bucket = TokenBucket(per_second, burst, now) if per_minute else None
        return 0.0 if self._bucket is None else self._bucket.take(now)

    def _put_blob(self, session: Session, requests: Requests, request: Request) -> None:
        result = requests.blobs.put(codec.convert(request.params, BlobPut))
        self._sweep_later(requests)
        requests.remember(request.id)
        session.respond(request.id, result)

    def _sweep_later(self, requests: Requests) -> None:
        """Blobs that nobody uses go when their time is over, also on a session that sends nothing more."""
        if requests.sweep is None:
            after_s = requests.blobs.lifetime_s + SWEEP_MARGIN_S
            requests.sweep = asyncio.get_running_loop().call_later(after_s, self._sweep, requests)

    def _sweep(self, requests: Requests) -> None:
        requests.sweep = None
        requests.blobs.expire()
        if requests.blobs.held_bytes:
            self._sweep_later(requests)

    def _start(self, entry: InFlight, params: Any, requests: Requests) -> None:
        loop = asyncio.get_running_loop()
        name = f"command {entry.command.method.name} {entry.request_id} of session {entry.origin.number}"
        task = loop.create_task(_run(entry, params), name=name)
        entry.task = task
        self._tasks.add(task)
        requests.add(entry)
        if entry.command.method.shape != "series" and not entry.command.method.exempt:
            entry.timers.append(loop.call_later(self._policy.max_seconds, self._overdue, entry))
        task.add_done_callback(lambda done: self._done(entry, requests, done))

    # the end of a command

    def _overdue(self, entry: InFlight) -> None:
        seconds = self._policy.max_seconds
        cause = DeadlineExceeded(
            f"The command took longer than the {seconds:g} s that the host's owner allows.",
            waited_for="the whole command",
            policy_key="policy.max_seconds",
            allowed=seconds,
        )
        self._stop(entry, cause)

    def _stop(self, entry: InFlight, cause: AgentError) -> None:
        """Stop a command; a handler that does not end in time is answered for, and left to end."""
        if entry.cause is not None:
            return
        entry.stop(cause)
        # A handler that swallows its cancellation must not keep the server waiting.
        loop = asyncio.get_running_loop()
        entry.timers.append(loop.call_later(self._bounds.stop_within_s, self._abandon, entry))

    def _abandon(self, entry: InFlight) -> None:
        log.error("command.does_not_stop", method=entry.command.method.name, request_id=entry.request_id)
        requests = self._sessions.get(entry.origin)
        if requests is not None and entry.cause is not None:
            self._answer(entry, requests, entry.cause)

    def _done(self, entry: InFlight, requests: Requests, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        entry.held.release()
        outcome = _outcome(entry, task)
        if isinstance(outcome, BaseException) and not isinstance(outcome, AgentError):
            log.error("command.failed", method=entry.command.method.name, exc_info=outcome)
        if entry.origin in self._sessions:
            self._answer(entry, requests, outcome)
        entry.drop_timers()
        # A failed task holds its frames, and these the entry: a body of 16 MiB would wait for the collector.
        entry.task = None

    def _answer(self, entry: InFlight, requests: Requests, outcome: Any) -> None:
        """Write the final, unless it was written."""
        if not requests.settle(entry):
            return
        entry.drop_timers()
        try:
            if isinstance(outcome, BaseException):
                entry.origin.respond_error(entry.request_id, to_wire(outcome, entry.stream_end))
            else:
                entry.origin.respond(entry.request_id, outcome)
        except LinkLost:
            log.debug(
                "command.response_dropped", method=entry.command.method.name, request_id=entry.request_id
            )
        except Exception as error:
            # A text in it that no frame can hold, for instance: the request still gets its one final.
            log.exception("command.answer_not_sent", method=entry.command.method.name)
            entry.origin.respond_error(entry.request_id, to_wire(error))

    def _refuse(self, session: Session, requests: Requests, request: Request, error: Exception) -> None:
        if request.id not in requests:
            requests.remember(request.id)
        self._log_refusal(requests, request, error)
        try:
            session.respond_error(request.id, to_wire(error))
        except LinkLost:
            log.debug("command.response_dropped", method=request.method[:SHOWN_CHARS])

    def _log_refusal(self, requests: Requests, request: Request, error: Exception) -> None:
        """Once a session for each kind and policy key: a server that insists cannot fill the log."""
        if not isinstance(error, AgentError):
            return
        key = f"{error.kind} {error.detail.get('policy_key')}"
        if key not in requests.logged_refusals:
            requests.logged_refusals.add(key)
            log.info(
                "command.refused",
                method=request.method[:SHOWN_CHARS],
                kind=error.kind,
                policy_key=error.detail.get("policy_key"),
            )


async def _run(entry: InFlight, params: Any) -> msgspec.Struct | msgspec.Raw:
    """What is logged on the way carries the request, and the stream that it opens, which goes by its id."""
    fields: dict[str, Any] = {"request_id": entry.request_id, "method": entry.command.method.name}
    if entry.command.method.shape in {"stream", "series"}:
        fields["stream_id"] = entry.request_id
    with structlog.contextvars.bound_contextvars(**fields):
        return await entry.command.run(params, entry)


def _outcome(entry: InFlight, task: asyncio.Task[Any]) -> msgspec.Struct | msgspec.Raw | BaseException:
    """What answers the request: the result if there is one, else why it was stopped, else its own error."""
    error = None if task.cancelled() else task.exception()
    if not task.cancelled() and error is None:
        result: msgspec.Struct | msgspec.Raw = task.result()
        return result
    cause = entry.cause
    if entry.command.method.shape == "series" and isinstance(cause, Cancelled):
        return SeriesFinal(interval_ms=entry.interval_ms, stream=entry.stream_end or StreamEnd(next_seq=0))
    if cause is not None:
        return cause
    return error if error is not None else Cancelled("The agent stopped the command.", retryable=True)
