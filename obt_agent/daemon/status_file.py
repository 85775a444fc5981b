"""The running daemon's status, in a file for ``obt-agent status``: the daemon opens no port.

The file stands in the state folder and is replaced as a whole. It means something only while the process that
wrote it holds the folder's lock.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from obt_agent.file_lock import LockHolder
from obt_agent.identity.folder import Folder, FolderError, open_folder
from obt_agent.identity.lock import holder
from obt_agent.ollama.payloads import OllamaState
from obt_agent.protocol.admission import JobCounts, OutboxCounts
from obt_agent.protocol.jobs import JobSummary
from obt_agent.system import clocks, descriptors

STATUS_FILE: Final = "status.json"
_NEW_FILE: Final = ".status.json.new"
_CREATE: Final = descriptors.REPLACE | descriptors.NO_LINK


@dataclass(frozen=True)
class Clocks:
    """What the time is by three clocks, in seconds. Nobody sets the last two, so that they tell how long ago.

    ``wall`` is Unix time. ``uptime`` is the machine's, suspended time included; ``tick`` is without it, so
    that a process that slept with its machine is not late.
    """

    wall: float
    uptime: float
    tick: float

    @classmethod
    def now(cls) -> Clocks:
        """This machine's."""
        return cls(time.time(), clocks.uptime_s(), time.monotonic())


LinkState = Literal["idle", "dialling", "admitted", "waiting", "stopped"]


class LinkReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The link to the server: ``server`` is its host (and port), ``since`` Unix seconds of the last change.

    ``since_uptime_s`` is the same in seconds of the machine's uptime. ``problem`` is why there is no session,
    for a person. ``pins``: the server must show one of these keys; empty where authorities decide.
    """

    state: LinkState
    server: str = ""
    since: float | None = None
    since_uptime_s: float | None = None
    session: int | None = None
    problem: str | None = None
    next_dial_in_s: float | None = None
    clock_skew_s: float | None = None
    pins: tuple[str, ...] = ()

    def held_s(self, now: Clocks) -> float | None:
        """Seconds since the last change, as far as they are known."""
        if self.since_uptime_s is not None:
            return now.uptime - self.since_uptime_s
        return now.wall - self.since if self.since else None


class ProviderReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One source of GPU readings: its name, how it is, and why if it is not well."""

    name: str
    status: str
    reason: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The daemon as it was at ``written_at`` (Unix seconds, as ``started_at``).

    ``started_uptime_s`` and ``written_tick_s`` are the same by clocks that nobody sets (see ``Clocks``).
    ``models`` is how many the policy shows, ``commands`` how many are in flight, ``streams`` how many of them
    are streams, ``blob_bytes`` how much of their attachments is held, ``jobs`` those that are open, running
    ones first, ``store_problem`` what is wrong with their store.
    """

    pid: int
    version: str
    started_at: float
    written_at: float
    started_uptime_s: float | None = None
    written_tick_s: float | None = None
    agent_id: str
    name: str
    link: LinkReport
    ollama: OllamaState
    models: int = 0
    loaded: tuple[str, ...] = ()
    commands: int = 0
    streams: int = 0
    blob_bytes: int = 0
    jobs: tuple[JobSummary, ...] = ()
    job_counts: JobCounts = JobCounts()
    outbox: OutboxCounts = OutboxCounts()
    store_problem: str | None = None
    providers: tuple[ProviderReport, ...] = ()
    loop_lag_ms: float | None = None
    config_file: str | None = None
    stopping: bool = False

    def age_s(self, now: Clocks) -> float:
        """Seconds since it was written, without time that the machine was suspended."""
        return now.wall - self.written_at if self.written_tick_s is None else now.tick - self.written_tick_s

    def up_s(self, now: Clocks) -> float:
        """Seconds since the daemon started."""
        if self.started_uptime_s is None:
            return now.wall - self.started_at
        return now.uptime - self.started_uptime_s


@dataclass(frozen=True)
class StatusFile:
    """Where the daemon leaves its status; ``folder`` is its state folder."""

    folder: Folder

    def write(self, status: Status) -> None:
        """Replace the file, mode 0600. It is not synced to the disk: after a power cut nobody wants it.

        Raises:
            FolderError: it cannot be written.
        """
        try:
            descriptor = self.folder.directory.open(_NEW_FILE, _CREATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(status))
            self.folder.directory.replace(_NEW_FILE, STATUS_FILE)
        except OSError as error:
            raise FolderError.from_os_error(
                f"{self.folder.path / STATUS_FILE} cannot be written", error
            ) from error

    def remove(self) -> None:
        """Take the file away, as the last word of an orderly end."""
        self.folder.remove(STATUS_FILE)


@dataclass(frozen=True)
class StatusReading:
    """What a state folder tells: who holds it, and that process's status where it has written one."""

    holder: LockHolder | None
    status: Status | None


def read_status(path: Path) -> StatusReading:
    """Read the status in a state folder, without locking or making anything.

    Raises:
        FolderError: the folder may not be read, or its files are not what they should be.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return StatusReading(None, None)
    except OSError as error:
        raise FolderError(f"The state folder {path} may not be read: {error.strerror}.") from error
    folder = open_folder(path)
    try:
        held_by = holder(folder)
        status = _decoded(folder.read(STATUS_FILE)) if held_by else None
    finally:
        folder.close()
    if status and held_by and status.pid != held_by.pid:  # left by an earlier process
        return StatusReading(held_by, None)
    return StatusReading(held_by, status)


def _decoded(data: bytes | None) -> Status | None:
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Status)
    except msgspec.DecodeError:  # another version's
        return None


def status_line(status: Status) -> str:
    """One line: ``admitted by obt.example.org, 3 models, benchmark 2/5 of llama3 at 41 tok/s``."""
    parts = [_link_words(status), _ollama_words(status), *map(_job_words, _running(status))]
    waiting = status.job_counts.open - len(_running(status))
    if waiting > 0:
        parts.append(f"{waiting} queued")
    if status.outbox.entries:
        parts.append(f"{_counted(status.outbox.entries, 'result')} to deliver")
    return ", ".join(part for part in parts if part)


def _link_words(status: Status) -> str:
    link = status.link
    if status.stopping:
        return "stopping"
    if link.state == "admitted":
        return f"admitted by {link.server}"
    words = {"dialling": "dialling", "waiting": "no link to", "idle": "starting with", "stopped": "left"}
    problem = f" ({link.problem})" if link.problem else ""
    return f"{words[link.state]} {link.server or 'the server'}{problem}"


def _ollama_words(status: Status) -> str:
    return _counted(status.models, "model") if status.ollama.reachable else "Ollama does not answer"


def _running(status: Status) -> tuple[JobSummary, ...]:
    return tuple(job for job in status.jobs if job.state == "running")


def _job_words(job: JobSummary) -> str:
    progress = job.progress
    words: list[str] = [job.kind]
    if progress and progress.iteration is not None:
        planned = f"/{progress.iterations_planned}" if progress.iterations_planned else ""
        words.append(f"{progress.iteration}{planned}")
    if job.model:
        words.append(f"of {job.model}")
    if progress and progress.tokens_per_second:
        words.append(f"at {progress.tokens_per_second:.0f} tok/s")
    elif progress and progress.completed_bytes and progress.total_bytes:
        words.append(f"at {progress.completed_bytes / progress.total_bytes:.0%}")
    if progress and progress.waiting_for:
        words.append(f"waiting for {progress.waiting_for}")
    return " ".join(words)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
