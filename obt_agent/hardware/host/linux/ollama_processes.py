"""Ollama's processes: found rarely, then followed cheaply.

Looking at every process of a machine costs tens of milliseconds at a thousand of them, so only PIDs that were
not there at the last look are looked at; all of them again every five minutes, since a program may replace
itself. The server's descendants come from /proc/PID/task/TID/children. An open /proc/PID/stat names its
process for good: when that ends, reading fails, even if the PID is given away again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from obt_agent.config.urls import OLLAMA_PORT, ollama_port
from obt_agent.hardware.field_reader import FieldReader, Unreadable, optional
from obt_agent.hardware.host.rates import LEAST_WINDOW_NS
from obt_agent.hardware.samples import OllamaProcess, ProcessRole
from obt_agent.hardware.snapshot.root import CachedFile, Root

_FULL_LOOK_NS = 300_000_000_000
_LOOK_NS = 5_000_000_000
_CHILDREN_NS = 2_000_000_000
_MOST_DESCENDANTS = 256

_SERVER_NAMES = {"ollama", "ollama.exe", ".ollama-wrapped"}
"""The program's own names; the last is that of NixOS, which wraps it."""

_SERVER_WORDS = {"serve", "start"}
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat after the command's closing parenthesis, from 0: state is 0 and ppid 1.
_PPID, _UTIME, _STIME, _RSS = 1, 11, 12, 21


@dataclass(slots=True)
class _Followed:
    pid: int
    role: ProcessRole
    stat: CachedFile
    port: int | None = None
    before: tuple[int, int] | None = None
    cpu_ratio: float | None = None


@dataclass(slots=True)
class _ProcessScan:
    """When processes were last looked for, and which were seen then."""

    seen: frozenset[str] = frozenset()
    at_ns: int | None = None
    full_at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """What is used of /proc/PID/stat: CPU time in ticks, resident pages."""

    ppid: int
    ticks: int
    pages: int


@dataclass
class OllamaProcesses:
    """Follows the servers of Ollama on this machine, and their descendants, which run the models.

    ``port`` is that of the server that matters, where there are several.
    """

    root: Root
    clock: Callable[[], int] = time.monotonic_ns
    port: int = OLLAMA_PORT
    _servers: dict[int, _Followed] = field(default_factory=dict)
    _runners: dict[int, _Followed] = field(default_factory=dict)
    _look: _ProcessScan = field(default_factory=_ProcessScan)
    _children_at_ns: int | None = None

    @property
    def server_pid(self) -> int | None:
        """The server that was told to listen at our port; else the oldest known one, or None."""
        servers = self._servers
        return min(servers, key=lambda pid: (servers[pid].port != self.port, pid), default=None)

    @property
    def pids(self) -> tuple[int, ...]:
        """Servers and runners as last seen."""
        return (*self._servers, *self._runners)

    def look_again(self) -> None:
        """Look at every process at the next update, for Ollama came, went or was replaced.

        Those that are followed stay.
        """
        self._look = _ProcessScan()

    def update(self) -> None:
        """Find servers if it is time to, and their descendants. Never raises."""
        now = self.clock()
        if self._look.at_ns is None or (not self._servers and now - self._look.at_ns >= _LOOK_NS):
            self._find_servers(now)
        if self._children_at_ns is None or now - self._children_at_ns >= _CHILDREN_NS:
            self._children_at_ns = now
            self._find_runners()

    def sample(self) -> tuple[OllamaProcess, ...]:
        """CPU and memory of each; those that ended are forgotten. Never raises."""
        followed = [*self._servers.values(), *self._runners.values()]
        return tuple(sample for process in followed if (sample := self._sample(process)) is not None)

    def close(self) -> None:
        """Let go of the files, and forget what was found."""
        for process in (*self._servers.values(), *self._runners.values()):
            process.stat.close()
        self._servers.clear()
        self._runners.clear()
        self.look_again()

    def _find_servers(self, now: int) -> None:
        look = self._look
        full = look.full_at_ns is None or now - look.full_at_ns >= _FULL_LOOK_NS
        pids = frozenset(filter(str.isdigit, optional(partial(self.root.names, "/proc")) or []))
        fresh = pids if full else pids - look.seen
        for pid in sorted(fresh, key=int):
            if int(pid) not in self._servers and optional(partial(self._is_server, pid)):
                server = self._servers[int(pid)] = self._follow(int(pid), "server")
                server.port = optional(partial(self._port, pid))
        self._look = _ProcessScan(seen=pids, at_ns=now, full_at_ns=now if full else look.full_at_ns)
        if self._servers:
            self._children_at_ns = None

    def _is_server(self, pid: str) -> bool:
        if self.root.text(f"/proc/{pid}/comm", 64) not in _SERVER_NAMES:
            return False
        arguments = self.root.text(f"/proc/{pid}/cmdline", 4096).split("\0")
        return any(word in _SERVER_WORDS for word in arguments[1:])

    def _port(self, pid: str) -> int:
        """Where a server listens, by its environment, which its own user and root may read."""
        entries = self.root.text(f"/proc/{pid}/environ").split("\0")
        told = next((entry.partition("=")[2] for entry in entries if entry.startswith("OLLAMA_HOST=")), "")
        return ollama_port(told)

    def _follow(self, pid: int, role: ProcessRole) -> _Followed:
        return _Followed(pid, role, self.root.hot(f"/proc/{pid}/stat"))

    def _find_runners(self) -> None:
        found: set[int] = set()
        edge = list(self._servers)
        while edge and len(found) < _MOST_DESCENDANTS:
            children = [child for pid in edge for child in self._children(pid) if child not in found]
            found.update(children)
            edge = children
        for gone in set(self._runners) - found:
            self._runners.pop(gone).stat.close()
        for pid in sorted(found - set(self._runners) - set(self._servers)):
            self._runners[pid] = self._follow(pid, "runner")

    def _children(self, pid: int) -> list[int]:
        folder = f"/proc/{pid}/task"
        threads = optional(partial(self.root.names, folder)) or []
        texts = [optional(partial(self.root.text, f"{folder}/{thread}/children")) or "" for thread in threads]
        return [int(word) for word in " ".join(texts).split() if word.isdigit()]

    def _sample(self, process: _Followed) -> OllamaProcess | None:
        gaps = FieldReader()
        stat = gaps.read("rss_bytes", lambda: parse_stat(process.stat.text()))
        if stat is None:
            self._forget(process)
            return None
        self._count(process, stat.ticks)
        return OllamaProcess(
            pid=process.pid,
            role=process.role,
            cpu_ratio=gaps.read("cpu_ratio", partial(_known, process.cpu_ratio)),
            rss_bytes=stat.pages * _PAGE_BYTES,
            unavailable=gaps.reasons,
        )

    def _forget(self, process: _Followed) -> None:
        process.stat.close()
        known = self._servers if process.role == "server" else self._runners
        known.pop(process.pid, None)
        self._children_at_ns = None
        if process.role == "server":
            self.look_again()

    def _count(self, process: _Followed, ticks: int) -> None:
        now = self.clock()
        if process.before is not None:
            window = now - process.before[1]
            if window < LEAST_WINDOW_NS:
                return
            process.cpu_ratio = max(0, ticks - process.before[0]) / _TICKS_PER_SECOND * 1e9 / window
        process.before = ticks, now


def parse_stat(text: str) -> Stat:
    """Parse /proc/PID/stat; the command in parentheses may hold anything. Raises ValueError."""
    words = text.rpartition(")")[2].split()
    if len(words) <= _RSS:
        raise ValueError(text[:40])
    return Stat(int(words[_PPID]), int(words[_UTIME]) + int(words[_STIME]), max(0, int(words[_RSS])))


def _known(ratio: float | None) -> float:
    if ratio is None:
        raise Unreadable("needs_two_readings")
    return ratio
