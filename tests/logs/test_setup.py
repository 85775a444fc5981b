import asyncio
import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import structlog

from obt_agent.identity.secret import Secret
from obt_agent.log_setup import journal
from obt_agent.log_setup.setup import LogPipeline, LogSettings, configure, set_agent_id, set_level
from tests.logs.journald import Journald

log = structlog.get_logger(__name__)
CANARY = "canary-77aa-Kp"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def to_json(**more: Any) -> tuple[LogPipeline, io.StringIO]:
    stream = io.StringIO()
    return configure(LogSettings(format="json", stream=stream, environ={}, **more)), stream


def fail(error: Exception) -> None:
    raise error


def tell(event: str, error: Exception, **more: str) -> None:
    """Logs an exception where it is caught."""
    try:
        fail(error)
    except Exception:
        log.exception(event, **more)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_holds_everything(tmp_path: Path) -> None:
    _, stream = to_json()
    set_agent_id("agent-1")
    log.info("job.finished", job_id="j-1", seconds=1.5, path=tmp_path)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("lineno") > 0
    assert line == {
        "event": "job.finished",
        "level": "info",
        "job_id": "j-1",
        "seconds": 1.5,
        "path": repr(tmp_path),
        "agent_id": "agent-1",
        "filename": "test_setup.py",
        "func_name": "test_a_line_of_json_holds_everything",
    }


def test_the_journal_gets_native_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journald(tmp_path) as journald:
        monkeypatch.setattr(journal.JournalSocket.__init__, "__defaults__", (journald.path,))
        configure(LogSettings(format="journal"))
        set_agent_id("agent-1")
        log.warning("stream.ended", job_id="j 1", stream_id="s-9", tokens=3, absent=None)
        entry = journald.entry()
        assert entry.pop("CODE_LINE").isdecimal()
        assert entry == {
            "MESSAGE": 'stream.ended job_id="j 1" stream_id=s-9 tokens=3',
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "obt-agent",
            "OBT_EVENT": "stream.ended",
            "OBT_JOB_ID": "j 1",
            "OBT_STREAM_ID": "s-9",
            "OBT_TOKENS": "3",
            "OBT_AGENT_ID": "agent-1",
            "CODE_FILE": "test_setup.py",
            "CODE_FUNC": "test_the_journal_gets_native_fields",
        }
        tell("task.failed", RuntimeError("broken"))
        entry = journald.entry()
        assert entry["PRIORITY"] == "3"
        assert entry["MESSAGE"].startswith("task.failed\nTraceback")
        assert entry["OBT_EXCEPTION"].endswith("RuntimeError: broken")


def test_a_journal_that_is_gone_leaves_the_line_on_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal.JournalSocket.__init__, "__defaults__", (tmp_path / "nobody",))
    stream = io.StringIO()
    configure(LogSettings(format="journal", stream=stream, environ={}))
    log.error("disk.full", free=0)
    assert stream.getvalue() == "<3>disk.full free=0\n"


def test_auto_is_the_journal_where_standard_error_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journald(tmp_path) as journald:
        monkeypatch.setattr(journal.JournalSocket.__init__, "__defaults__", (journald.path,))
        monkeypatch.setattr(journal, "is_stderr", lambda environ: "JOURNAL_STREAM" in environ)
        configure(LogSettings(environ={"JOURNAL_STREAM": "1:2"}))
        log.info("agent.started")
        assert journald.entry()["OBT_EVENT"] == "agent.started"


@pytest.mark.parametrize(
    ("stream", "environ", "colored"),
    [(Terminal(), {}, True), (Terminal(), {"NO_COLOR": "1"}, False), (io.StringIO(), {}, False)],
)
def test_otherwise_auto_is_for_people_with_colors_on_a_terminal(
    stream: io.StringIO, environ: dict[str, str], colored: bool
) -> None:
    configure(LogSettings(stream=stream, environ=environ))
    set_agent_id("agent-1")
    log.info("link.admitted", server="obt.example.org")
    text = stream.getvalue()
    assert "link.admitted" in text
    assert "obt.example.org" in text
    assert "agent-1" not in text
    assert ("\x1b[" in text) is colored


def test_the_level_holds_and_can_be_changed_while_running() -> None:
    _, stream = to_json(level="warning")
    log.info("a.b")
    log.warning("a.c")
    set_level("debug")
    log.debug("a.d")
    assert [line["event"] for line in lines(stream)] == ["a.c", "a.d"]


def test_a_repeated_failure_is_one_line_and_a_count_at_the_end() -> None:
    output, stream = to_json()
    for attempt in range(5):
        log.warning("dial.failed", error="refused", attempt=attempt)
    output.flush()
    assert [(line["attempt"], line.get("repeated")) for line in lines(stream)] == [(0, None), (0, 4)]


def test_libraries_speak_through_the_same_way_and_only_when_it_matters() -> None:
    _, stream = to_json(level="debug")
    logging.getLogger("websockets.client").debug("> GET / Authorization: Bearer %s", CANARY)
    logging.getLogger("aiohttp.client").info("chatter")
    logging.getLogger("aiohttp.client").warning("token=%s was odd", CANARY)
    error = OSError(f"https://me:{CANARY}@proxy")
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated thing", DeprecationWarning, stacklevel=1)
    heard = lines(stream)
    assert [(line["event"], line["level"], line["logger"]) for line in heard] == [
        ("library.logged", "warning", "aiohttp.client"),
        ("library.logged", "error", "asyncio"),
        ("library.logged", "warning", "py.warnings"),
    ]
    assert heard[0]["message"] == "token=*** was odd"
    assert "OSError: https://***@proxy" in heard[1]["exception"]
    assert CANARY not in stream.getvalue()


def test_a_library_that_formats_wrongly_breaks_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stream = to_json()
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("aiohttp").warning("%d", "x")
    log.info("still.alive")
    assert [line["event"] for line in lines(stream)] == ["still.alive"]


def test_configuring_again_replaces_the_way_out_and_keeps_the_agents_id() -> None:
    _, first = to_json()
    set_agent_id("agent-1")
    _, second = to_json()
    log.info("a.b")
    logging.getLogger("aiohttp").warning("once")
    assert first.getvalue() == ""
    assert [line["agent_id"] for line in lines(second)] == ["agent-1", "agent-1"]


def test_what_a_task_binds_goes_with_its_lines() -> None:
    _, stream = to_json()

    async def job(name: str) -> None:
        structlog.contextvars.bind_contextvars(job_id=name)
        await asyncio.sleep(0)
        log.info("job.started")

    async def both() -> None:
        await asyncio.gather(job("a"), job("b"))

    asyncio.run(both())
    assert [line["job_id"] for line in lines(stream)] == ["a", "b"]


def test_a_closed_stream_is_borne() -> None:
    _, stream = to_json()
    stream.close()
    log.info("a.b")


def test_no_canary_leaves_by_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speak() -> None:
        bound = log.bind(token=CANARY, url=f"http://u:{CANARY}@x")
        bound.info("a.b", secret=Secret(CANARY), headers={"Authorization": f"Bearer {CANARY}"})
        bound.error(
            f"Bearer {CANARY}",
            nested=[{"password": CANARY}],
            prompt=CANARY,
            error=ValueError(f"token={CANARY}"),
        )
        tell("c.d", ValueError(f"Bearer {CANARY}"), credential=CANARY)
        logging.getLogger("aiohttp").error("password=%s", CANARY)

    heard = []
    for form in ("json", "console"):
        stream = io.StringIO()
        output = configure(LogSettings(level="debug", format=form, stream=stream, environ={}))
        speak()
        output.flush()
        heard.append(stream.getvalue())
    with Journald(tmp_path) as journald:
        monkeypatch.setattr(journal.JournalSocket.__init__, "__defaults__", (journald.path,))
        configure(LogSettings(level="debug", format="journal"))
        speak()
        heard += [str(journald.entry()) for _ in range(4)]
    assert all("***" in text for text in heard)
    assert CANARY not in "".join(heard)


def test_before_anything_is_configured_the_setters_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = sys.modules[configure.__module__]
    monkeypatch.setattr(setup, "_output", None)
    set_level("debug")
    set_agent_id("x")
