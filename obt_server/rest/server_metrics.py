"""The figures of the server itself: jobs, links, database, process; and the text of all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from obt_server.hub.counters import LinkCounters
from obt_server.rest import machine_metrics
from obt_server.rest.machine_metrics import MachineFigures
from obt_server.rest.socket import LinkTraffic
from obt_server.store.counters import DatabaseCounters

Counted = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, kw_only=True)
class ReplicaFigures:
    """This server among others on its database. ``running`` counts it too; ``epoch`` is the last lease's."""

    running: int
    leading: bool
    epoch: int
    bus_connected: bool
    exchanges: int


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """Everything that is shown, as it was at one moment."""

    version: str
    enrolled: int
    online: int
    machines: Sequence[MachineFigures]
    jobs: Sequence[tuple[str, str, int]]
    open_rollouts: int
    open_campaigns: int
    links: LinkCounters
    traffic: LinkTraffic
    waiting_bytes: int
    max_waiting_bytes: int
    connections: Mapping[str, int]
    database: DatabaseCounters
    database_path: Path | None
    removed: Mapping[str, int]
    replicas: ReplicaFigures | None


class _Scrape(Collector):
    """The figures of one scrape, as Prometheus' library collects them."""

    def __init__(self, figures: ServerFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        figures = self._figures
        yield from _fleet(figures)
        yield from _links(figures)
        yield from _database(figures)
        if figures.replicas is not None:
            yield from _replicas(figures.replicas)
        yield from machine_metrics.families(figures.machines)
        yield from _process()


def text(figures: ServerFigures) -> bytes:
    """Return the figures in Prometheus' text format. Computes for long with a large fleet."""
    return generate_latest(_Scrape(figures))


def _fleet(figures: ServerFigures) -> Iterator[Metric]:
    yield _gauge("obt_server_info", "The release of the server; 1.", [((figures.version,), 1)], ["version"])
    states = [(("online",), figures.online), (("offline",), figures.enrolled - figures.online)]
    yield _gauge("obt_agents", "Enrolled agents by state.", states, ["state"])
    left_out = figures.enrolled - len(figures.machines)
    yield _gauge("obt_agents_without_series", "Agents beyond those that have series.", [((), left_out)])
    jobs = [((kind, state), count) for kind, state, count in figures.jobs]
    yield _gauge("obt_jobs", "Stored jobs by kind and state.", jobs, ["kind", "state"])
    open_runs = [(("rollout",), figures.open_rollouts), (("campaign",), figures.open_campaigns)]
    yield _gauge("obt_open_runs", "Rollouts and campaigns that have not ended.", open_runs, ["kind"])
    removed = [((kind,), count) for kind, count in figures.removed.items()]
    yield _counter("obt_retention_removed", "Rows that retention removed.", removed, ["kind"])


def _links(figures: ServerFigures) -> Iterator[Metric]:
    links, traffic = figures.links, figures.traffic
    yield _counter("obt_link_admissions", "Sessions of agents that began.", [((), links.admitted)])
    for name, words, codes in (
        ("obt_link_refusals", "Sockets of agents that were not admitted, by close code.", links.refused),
        ("obt_link_ends", "Sessions of agents that ended, by close code.", links.ended),
    ):
        yield _counter(name, words, [((code,), count) for code, count in codes.copy().items()], ["code"])
    for name, words, received, sent in (
        ("obt_link_frames", "Frames of links.", traffic.received_frames, traffic.sent_frames),
        ("obt_link_bytes", "Bytes of those frames.", traffic.received_bytes, traffic.sent_bytes),
    ):
        both = [(("received",), received), (("sent",), sent)]
        yield _counter(name, words, both, ["direction"])
    yield _gauge(
        "obt_waiting_bytes", "What waits in memory for agents and askers.", [((), figures.waiting_bytes)]
    )
    yield _gauge(
        "obt_waiting_limit_bytes", "Beyond it requests are refused.", [((), figures.max_waiting_bytes)]
    )
    connections = [((kind,), count) for kind, count in figures.connections.items()]
    yield _gauge("obt_connections", "Open connections by whose they are.", connections, ["kind"])


def _database(figures: ServerFigures) -> Iterator[Metric]:
    done = figures.database
    work = [(("write",), done.writes), (("read",), done.reads)]
    yield _counter("obt_database_transactions", "Transactions that ended.", work, ["kind"])
    seconds = [(("write",), done.write_seconds), (("read",), done.read_seconds)]
    yield _counter("obt_database_seconds", "Time in those transactions.", seconds, ["kind"])
    yield _counter("obt_database_undone", "Of those, undone: refusals and failures.", [((), done.undone)])
    yield _gauge("obt_database_queue", "Transactions that wait or run.", [((), done.waiting)])
    path = figures.database_path
    if path is None:
        return
    # A file that is gone for a moment, or a folder that may not be read, leaves its figure out.
    with contextlib.suppress(OSError):
        yield _gauge("obt_database_bytes", "Size of the database's file.", [((), path.stat().st_size)])
        yield _gauge(
            "obt_database_free_bytes", "Free on its disk.", [((), shutil.disk_usage(path.parent).free)]
        )
        wal = path.with_name(path.name + "-wal")
        yield _gauge("obt_database_wal_bytes", "Size of its log of writes.", [((), wal.stat().st_size)])


def _replicas(figures: ReplicaFigures) -> Iterator[Metric]:
    for name, words, value in (
        ("obt_replicas", "Server processes on this database that run, this one too.", figures.running),
        ("obt_replica_leading", "Whether this one leads; 1 or 0.", figures.leading),
        ("obt_replica_epoch", "Number of the last lease of whoever leads.", figures.epoch),
        ("obt_bus_connected", "Whether this one is connected to NATS; 1 or 0.", figures.bus_connected),
        ("obt_exchanges", "Open requests to and from other processes.", figures.exchanges),
    ):
        yield _gauge(name, words, [((), value)])


def _process() -> Iterator[Metric]:
    """Yield the usual metrics of a process and its interpreter (``process_``, ``python_``)."""
    yield from _PROCESS.collect()


def _registry() -> CollectorRegistry:
    # One of its own: the library's global one is shared with whatever else runs in an embedding process.
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


_PROCESS: Final = _registry()


def _gauge(name: str, words: str, values: Counted, labels: Sequence[str] = ()) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for of_labels, value in values:
        family.add_metric(of_labels, value)
    return family


def _counter(name: str, words: str, values: Counted, labels: Sequence[str] = ()) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for of_labels, value in values:
        family.add_metric(of_labels, value)
    return family
