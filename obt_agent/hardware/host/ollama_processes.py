"""Ollama's processes: found rarely, then followed cheaply.

Examining every process of a machine costs tens of milliseconds at a thousand of them, so between two full
scans, five minutes apart because a program may replace itself, only PIDs that are new are examined.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from obt_agent.config.urls import OLLAMA_PORT, ollama_port
from obt_agent.hardware.field_reader import FieldReader, Unreadable, optional
from obt_agent.hardware.host.platform import ProcessTable
from obt_agent.hardware.host.rates import LEAST_WINDOW_NS
from obt_agent.hardware.host.readings import HeldProcess, HostReadings
from obt_agent.hardware.samples import OllamaProcess, ProcessRole

# Between two scans of every process, of new ones while no server is known, and for children of servers.
_FULL_SCAN_NS = 300_000_000_000
_SCAN_NS = 5_000_000_000
_CHILDREN_NS = 2_000_000_000
# A server runs a few runners; a tree that is larger is not Ollama's, and must not take the sampler's time.
_MOST_DESCENDANTS = 256

# The program's own names; the last is that of NixOS, which wraps it.
_SERVER_NAMES = {"ollama", "ollama.exe", ".ollama-wrapped"}

_SERVER_WORDS = {"serve", "start"}

# A file of the model store, as every version names it to its runner (after ``--model``).
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})\Z")
_MODEL_OPTIONS = {"--model", "-m"}


class _Followed:
    """One process that is followed."""

    def __init__(
        self, pid: int, role: ProcessRole, held: HeldProcess, *, server_pid: int | None = None
    ) -> None:
        self.pid = pid
        self.role = role
        self.held = held
        # The server that it descends from; None for a server.
        self.server_pid = server_pid
        # Where a server listens; None where its environment is closed to the agent, and for runners.
        self.port: int | None = None
        # The weights that a runner was started with; None while its command line names none.
        self.blob: str | None = None
        # CPU seconds and time (ns) of the reading that the next ratio starts from.
        self.before: tuple[float, int] | None = None
        self.cpu_ratio: float | None = None


class OllamaProcesses:
    """Follows the servers of Ollama on this machine, and their descendants, which run the models.

    ``port`` is that of the server that matters, where there are several.
    """

    def __init__(
        self,
        table: ProcessTable,
        readings: HostReadings,
        *,
        port: int = OLLAMA_PORT,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._table = table
        self._readings = readings
        self._port = port
        self._clock = clock
        # By PID. A runner is any descendant of a server: versions differ in how many levels there are.
        self._servers: dict[int, _Followed] = {}
        self._runners: dict[int, _Followed] = {}
        # Every PID of the last scan: what is among them is not examined again before the next full one.
        self._scanned: frozenset[int] = frozenset()
        # When the last scan, the last full one and the last search for children were; None: one is due.
        self._scanned_at_ns: int | None = None
        self._full_scan_at_ns: int | None = None
        self._children_at_ns: int | None = None

    @property
    def server_pid(self) -> int | None:
        """The server that listens at our port; else the oldest known one, or None."""
        servers = self._servers
        return min(servers, key=lambda pid: (servers[pid].port != self._port, pid), default=None)

    @property
    def pids(self) -> tuple[int, ...]:
        """Servers and runners as of the last update."""
        return (*self._servers, *self._runners)

    def rescan(self) -> None:
        """Examine every process at the next update, for Ollama came, went or was replaced.

        Those that are followed stay.
        """
        self._scanned = frozenset()
        self._scanned_at_ns = self._full_scan_at_ns = None

    def update(self) -> None:
        """Find servers if it is time to, and their descendants. Never raises."""
        now = self._clock()
        since_scan = None if self._scanned_at_ns is None else now - self._scanned_at_ns
        if since_scan is None or (not self._servers and since_scan >= _SCAN_NS):
            self._find_servers(now)
        if self._children_at_ns is None or now - self._children_at_ns >= _CHILDREN_NS:
            self._children_at_ns = now
            self._find_runners()

    def sample(self) -> tuple[OllamaProcess, ...]:
        """Return CPU and memory of each; those that ended are forgotten. Never raises."""
        followed = [*self._servers.values(), *self._runners.values()]
        return tuple(sample for process in followed if (sample := self._sample(process)) is not None)

    def close(self) -> None:
        """Let go of the processes, and forget what was found."""
        for process in (*self._servers.values(), *self._runners.values()):
            process.held.close()
        self._servers.clear()
        self._runners.clear()
        self.rescan()

    def _find_servers(self, now: int) -> None:
        full = self._full_scan_at_ns is None or now - self._full_scan_at_ns >= _FULL_SCAN_NS
        pids = optional(self._table.pids) or frozenset()
        for pid in sorted((pids if full else pids - self._scanned) - self._servers.keys()):
            if optional(partial(self._is_server, pid)):
                server = self._servers[pid] = _Followed(pid, "server", self._readings.process(pid))
                server.port = optional(partial(self._port_of, pid))
        self._scanned, self._scanned_at_ns = pids, now
        if full:
            self._full_scan_at_ns = now
        if self._servers:
            self._children_at_ns = None

    def _is_server(self, pid: int) -> bool:
        # The name first: it is one short file, and rules out nearly every process.
        return self._table.name(pid) in _SERVER_NAMES and not _SERVER_WORDS.isdisjoint(
            self._table.arguments(pid)
        )

    def _port_of(self, pid: int) -> int:
        return ollama_port(self._table.environment(pid).get("OLLAMA_HOST", ""))

    def _find_runners(self) -> None:
        # From each server by itself: a runner is to be told apart from those of another Ollama.
        found = {pid: server for server in self._servers for pid in self._descendants(server)}
        for gone in self._runners.keys() - found:
            self._runners.pop(gone).held.close()
        for pid in sorted(found.keys() - self._runners.keys() - self._servers.keys()):
            self._runners[pid] = _Followed(pid, "runner", self._readings.process(pid), server_pid=found[pid])
        for runner in self._runners.values():
            # Asked again: a process that was found just before it became the runner had another command line.
            if runner.blob is None:
                runner.blob = _blob_in(optional(partial(self._table.arguments, runner.pid)) or ())

    def _descendants(self, server: int) -> frozenset[int]:
        found: frozenset[int] = frozenset()
        edge = frozenset({server})
        while edge and len(found) < _MOST_DESCENDANTS:
            edge = self._table.children(edge) - found
            found |= edge
        return found

    def _sample(self, process: _Followed) -> OllamaProcess | None:
        use = optional(process.held.read)
        if use is None:
            self._forget(process)
            return None
        self._count(process, use.cpu_s)
        reasons = FieldReader()
        return OllamaProcess(
            pid=process.pid,
            role=process.role,
            server_pid=process.server_pid,
            port=process.port,
            blob=process.blob,
            cpu_ratio=reasons.read("cpu_ratio", partial(_known, process.cpu_ratio)),
            rss_bytes=use.rss_bytes,
            unavailable=reasons.reasons,
        )

    def _forget(self, process: _Followed) -> None:
        process.held.close()
        followed = self._servers if process.role == "server" else self._runners
        followed.pop(process.pid, None)
        # A model that ends is mostly replaced by another: look for that one now.
        self._children_at_ns = None
        if process.role == "server":
            self.rescan()

    def _count(self, process: _Followed, cpu_s: float) -> None:
        now = self._clock()
        if process.before is not None:
            window = now - process.before[1]
            if window < LEAST_WINDOW_NS:
                return
            # The kernel's counters can step back a little.
            process.cpu_ratio = max(0.0, cpu_s - process.before[0]) * 1e9 / window
        process.before = cpu_s, now


def _blob_in(arguments: Sequence[str]) -> str | None:
    """The digest of the weights that a runner's command line names."""
    for option, value in pairwise(arguments):
        if option in _MODEL_OPTIONS and (blob := _BLOB.search(value)):
            return blob[1]
    return None


def _known(ratio: float | None) -> float:
    if ratio is None:
        raise Unreadable("needs_two_readings")
    return ratio
