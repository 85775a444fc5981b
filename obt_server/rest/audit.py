"""The audit line: who had something changed or run, from where, on which machines, and what came of it.

Each route that is asked by another method than GET writes one, unless it is marked as one that only reads.
There is nothing in it that anybody typed but the names in the path: no prompt, no secret, no body.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import structlog
from fastapi import Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from obt_agent.printable import printable
from obt_server.auth import Principal

log = structlog.get_logger(__name__)

READING_COMMANDS: Final = frozenset(
    {
        *("list_models", "show_model", "running_models", "hardware", "hardware_watch"),
        *("benchmark_status", "benchmark_metrics", "agent_info"),
    }
)
"""Commands of the protocol that change nothing and run nothing; pages send them all the time."""
_READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MACHINES_SHOWN: Final = 50
_CHARS_SHOWN: Final = 200
_REFUSED: Final = 400
_READS_ONLY: Final = "obt_reads_only"

E = TypeVar("E", bound=Callable[..., Any])


@dataclass
class AuditEntry:
    """What one line will say beside the request itself."""

    who: str
    via: str
    machines: list[str] = field(default_factory=list)
    facts: dict[str, str | int] = field(default_factory=dict)
    written: bool = True
    outcome: str = "failed"


_current: ContextVar[AuditEntry | None] = ContextVar("obt_audit", default=None)


def note(*machines: str, **facts: str | int) -> None:
    """Add to the line of the request that is being answered, if it has one."""
    entry = _current.get()
    if entry is not None:
        entry.machines += machines
        entry.facts |= facts


def leave_out() -> None:
    """Write no line for this request: it changes nothing and runs nothing."""
    entry = _current.get()
    if entry is not None:
        entry.written = False


def sender(who: str, via: str) -> None:
    """Say who asks, where only the route's own work finds that out."""
    entry = _current.get()
    if entry is not None:
        entry.who, entry.via = who, via


def reads_only(endpoint: E) -> E:
    """Mark an endpoint that is asked by POST and changes nothing: a preview, for instance."""
    setattr(endpoint, _READS_ONLY, True)
    return endpoint


def is_audited(route: APIRoute) -> bool:
    """Return whether a route's requests get a line."""
    return not ((route.methods or set()) <= _READING_METHODS or getattr(route.endpoint, _READS_ONLY, False))


@contextlib.contextmanager
def line(connection: HTTPConnection, action: str, who: Principal | None) -> Iterator[AuditEntry]:
    """Write the line of what is done in this block, when it has ended."""
    entry = AuditEntry("", "") if who is None else AuditEntry(who.name, who.via)
    reset = _current.set(entry)
    try:
        yield entry
    finally:
        _current.reset(reset)
        if entry.written:
            _write(connection, action, entry)


def answered(entry: AuditEntry, answer: Response) -> None:
    """Take the outcome from an answer: the status, and of a refusal its kind."""
    entry.outcome = str(answer.status_code)
    if answer.status_code >= _REFUSED:
        with contextlib.suppress(msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            entry.outcome += f" {msgspec.json.decode(answer.body)['error']['kind']}"


def _write(connection: HTTPConnection, action: str, entry: AuditEntry) -> None:
    path = {name: printable(str(value), _CHARS_SHOWN) for name, value in connection.path_params.items()}
    # Strangers may be refused as often as they like: their lines are limited like any other (``log_limit``).
    event = "audit.command" if entry.who else "audit.refused"
    log.info(
        event,
        who=entry.who or None,
        via=entry.via or None,
        address=connection.client.host if connection.client is not None else None,
        action=action,
        path=path,
        machines=entry.machines[:_MACHINES_SHOWN],
        machine_count=len(entry.machines),
        outcome=entry.outcome,
        **entry.facts,
    )
