"""Puts structlog and the standard library's logging together into one way out."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TextIO

import structlog

from obt_agent.log_setup import journal, redaction, render
from obt_agent.log_setup.folding import Folding

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "journal", "console", "json"]
EventDict = dict[str, Any]

_NUMBERS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
# Libraries never say less important things: at ``debug``, websockets logs frames and the token's header.
_LIBRARY_LEVEL: Final = logging.WARNING


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """``format`` auto: the journal where standard error leads there, else lines for people.

    ``prompts`` lets prompts and answers through. ``identifier`` is the program's name in the journal.
    """

    level: Level = "info"
    format: Format = "auto"
    prompts: bool = False
    identifier: str = render.IDENTIFIER
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class LogSink:
    """Where rendered events go."""

    write: Callable[[EventDict], None]
    close: Callable[[], None] = lambda: None


class LogPipeline:
    """The one way out: masks, folds, filters by level, renders, writes. Never raises."""

    def __init__(self, settings: LogSettings, sink: LogSink, folding: Folding) -> None:
        # Events below it are not written.
        self.level = _NUMBERS[settings.level]
        # What every event carries, such as the agent's id.
        self.fields: dict[str, str] = {}
        self._prompts = settings.prompts
        self._sink = sink
        self._folding = folding

    def emit(self, event: Mapping[str, Any]) -> None:
        """Write an event, or count it."""
        # Masked before anything else sees it: folding keeps events, and may write them later.
        safe = redaction.masked({**event, **self.fields}, prompts=self._prompts)
        for one in self._folding.passed(safe):
            self._out(one)

    def flush(self) -> None:
        """Write the counts that nothing has shown yet."""
        for one in self._folding.rest():
            self._out(one)

    def close(self) -> None:
        """Write what is left, and close the journal's socket. What is logged later is dropped."""
        self.flush()
        self._sink.close()
        self._sink = LogSink(lambda _event: None)

    def _out(self, event: EventDict) -> None:
        if _NUMBERS.get(event.get("level", "info"), 20) >= self.level:
            self._sink.write(event)


class _LibraryHandler(logging.Handler):
    """Takes what libraries log. The event is ``library.logged``; the text is theirs."""

    def __init__(self, output: LogPipeline) -> None:
        super().__init__(_LIBRARY_LEVEL)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = {
                "event": "library.logged",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
                "filename": record.pathname,
                "lineno": record.lineno,
                "func_name": record.funcName,
            }
            if record.exc_info:
                event["exc_info"] = record.exc_info
            self._output.emit(_finished(event))
        except Exception:  # noqa: BLE001 - logging's own way for what goes wrong in a handler
            self.handleError(record)


_output: LogPipeline | None = None


def configure(settings: LogSettings, *, folding: Folding | None = None) -> LogPipeline:
    """Send every log event of the process the way that the settings say; a later call replaces it."""
    global _output  # noqa: PLW0603 - a process has one log
    previous = _output
    _output = output = LogPipeline(settings, _sink(settings), folding or Folding())
    # A configuration that was read again: the agent is the same.
    if previous is not None:
        output.fields |= previous.fields
        previous.close()
    _configure_structlog(output)
    _capture_libraries(output)
    return output


def set_level(level: Level) -> None:
    """Another level from now on, for a configuration that was read again."""
    if _output is not None:
        _output.level = _NUMBERS[level]
        _configure_structlog(_output)


def set_agent_id(agent_id: str) -> None:
    """Have every event from now on carry the agent's id."""
    if _output is not None:
        _output.fields["agent_id"] = agent_id


def _configure_structlog(output: LogPipeline) -> None:
    def leave(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        output.emit(_finished(dict(event)))
        # The event is written; structlog must not hand it on to a logger too.
        raise structlog.DropEvent

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.CallsiteParameterAdder(
                {
                    structlog.processors.CallsiteParameter.PATHNAME,
                    structlog.processors.CallsiteParameter.LINENO,
                    structlog.processors.CallsiteParameter.FUNC_NAME,
                },
                additional_ignores=["obt_agent.log_setup"],
            ),
            leave,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(output.level),
        logger_factory=structlog.ReturnLoggerFactory(),
        # Or loggers made before a change of the level would keep the old one.
        cache_logger_on_first_use=False,
    )


def _capture_libraries(output: LogPipeline) -> None:
    root = logging.getLogger()
    # Those of an earlier configuration; handlers of others stay.
    for handler in [one for one in root.handlers if isinstance(one, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(output))
    root.setLevel(_LIBRARY_LEVEL)
    for name in ("websockets", "aiohttp", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(_LIBRARY_LEVEL)
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library's signature


def _finished(event: EventDict) -> EventDict:
    """The exception as text, and file names without the machine's folders."""
    if event.get("exc_info"):
        event = structlog.processors.format_exc_info(None, "", event)  # type: ignore[assignment] # gives back what it got
    event["filename"] = _short_path(str(event.pop("pathname", None) or event.get("filename", "")))
    return event


def _short_path(path: str) -> str:
    # Where the program is installed tells nobody anything, and may name a person's home.
    parts = path.split("/")
    package = next((one for one in ("obt_server", "obt_agent") if one in parts), parts[-1])
    return "/".join(parts[parts.index(package) :])


def _sink(settings: LogSettings) -> LogSink:
    form = settings.format
    if form == "auto":
        form = "journal" if journal.is_stderr(settings.environ) else "console"
    if form == "journal":
        return _to_journal(journal.JournalSocket(), settings)
    if form == "json":
        return _to_stream(render.json_line, settings.stream, "%Y-%m-%dT%H:%M:%S.%fZ", utc=True)
    colors = settings.stream.isatty() and "NO_COLOR" not in settings.environ
    return _to_stream(render.console(colors=colors), settings.stream, "%H:%M:%S", utc=False)


def _to_journal(target: journal.JournalSocket, settings: LogSettings) -> LogSink:
    def write(event: EventDict) -> None:
        if not target.send(render.journal_fields(event, settings.identifier)):
            # With the prefix by which the journal reads levels from standard error (sd-daemon(3)).
            priority = render.PRIORITIES.get(event.get("level", "info"), 6)
            _print(f"<{priority}>" + render.message(event).replace("\n", " | "), settings.stream)

    return LogSink(write, target.close)


def _to_stream(
    rendered: Callable[[EventDict], str], stream: TextIO, time_format: str, *, utc: bool
) -> LogSink:
    stamp = structlog.processors.TimeStamper(fmt=time_format, utc=utc)

    def write(event: EventDict) -> None:
        _print(rendered({"timestamp": "", **stamp(None, "", event)}), stream)

    return LogSink(write)


def _print(line: str, stream: TextIO) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    # Nobody reads any more, or the stream is closed: there is nowhere to report it.
    except (OSError, ValueError):
        return
