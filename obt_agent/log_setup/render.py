"""One event in each of the three forms: fields of the journal, a line of JSON, a line for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog

from obt_agent.log_setup.journal import field_name

EventDict = dict[str, Any]
IDENTIFIER: Final = "obt-agent"
PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Levels as syslog(3) counts them."""

_CODE: Final = {"filename": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
_NOT_IN_MESSAGE: Final = frozenset(
    {"event", "level", "timestamp", "logger", "exception", "agent_id", "message", *_CODE}
)


def journal_fields(event: Mapping[str, Any], identifier: str = IDENTIFIER) -> list[tuple[str, str]]:
    """Fields of the journal; what an event carries is found again as ``OBT_…``."""
    level = str(event.get("level", "info"))
    fields = [
        ("MESSAGE", message(event)),
        ("PRIORITY", str(PRIORITIES.get(level, 6))),
        ("SYSLOG_IDENTIFIER", identifier),
        ("OBT_EVENT", str(event.get("event", ""))),
    ]
    fields += [(name, str(event[key])) for key, name in _CODE.items() if key in event]
    fields += [
        (field_name(key), _text(value))
        for key, value in event.items()
        if key not in {"event", "level", "timestamp", *_CODE} and value is not None
    ]
    return fields


def message(event: Mapping[str, Any]) -> str:
    """``link.admitted session=3 server=obt.example.org``, and the traceback in the lines below."""
    words = [str(event.get("event", ""))]
    if text := event.get("message"):
        words.append(str(text))
    words += [f"{key}={_word(value)}" for key, value in _said(event)]
    line = " ".join(words)
    return f"{line}\n{event['exception']}" if event.get("exception") else line


def json_line(event: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return msgspec.json.encode(event, enc_hook=str).decode()


def console(*, colors: bool) -> Callable[[EventDict], str]:
    """A renderer of lines for people: time, level, event, then the rest; tracebacks below."""
    renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    hidden = {"agent_id", *_CODE}

    def render(event: EventDict) -> str:
        return str(renderer(None, "", {key: value for key, value in event.items() if key not in hidden}))

    return render


def _said(event: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((k, v) for k, v in event.items() if k not in _NOT_IN_MESSAGE and v is not None)


def _word(value: Any) -> str:
    text = _text(value)
    plain = text and not any(c.isspace() or c in "\"'=" for c in text)
    return text if plain else msgspec.json.encode(text).decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
