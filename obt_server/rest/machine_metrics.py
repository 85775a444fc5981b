"""The figures of machines and their GPUs, of the heartbeats of live sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric

from obt_agent.printable import printable
from obt_agent.protocol.admission import HeartbeatParams, LightGpu, LightSample
from obt_server.hub import Presence
from obt_server.hub.presence import GpuTitle
from obt_server.hub.storage import AgentRecord

MAX_GPUS: Final = 16
"""Of one machine with series of their own: what a machine says of itself must not make series without end."""
_NAME_CHARS: Final = 200

_OF_SAMPLE: Final[tuple[tuple[str, str, Callable[[LightSample], float | None]], ...]] = (
    ("obt_agent_cpu_utilization_ratio", "Processor in use, 0 to 1.", lambda one: one.cpu_utilization_ratio),
    ("obt_agent_cpu_temperature_celsius", "Of the processor.", lambda one: one.cpu_temperature_celsius),
    ("obt_agent_memory_used_bytes", "Main memory in use.", lambda one: one.memory_used_bytes),
    ("obt_agent_memory_available_bytes", "Main memory that is free.", lambda one: one.memory_available_bytes),
)
_OF_HEARTBEAT: Final[tuple[tuple[str, str, Callable[[HeartbeatParams], float | None]], ...]] = (
    ("obt_agent_ollama_up", "Whether Ollama answers the agent.", lambda one: float(one.ollama.reachable)),
    ("obt_agent_loaded_models", "Models in memory.", lambda one: len(one.loaded)),
    ("obt_agent_streams", "Answers that are being generated.", lambda one: one.streams),
    ("obt_agent_open_jobs", "Jobs that wait or run there.", lambda one: one.jobs.open),
    ("obt_agent_outbox_results", "Results that wait to be sent here.", lambda one: one.outbox.entries),
    ("obt_agent_outbox_bytes", "Bytes of those.", lambda one: one.outbox.bytes),
)
_OF_GPU: Final[tuple[tuple[str, str, Callable[[LightGpu], float | None]], ...]] = (
    ("obt_gpu_utilization_ratio", "GPU in use, 0 to 1.", lambda one: one.utilization_ratio),
    ("obt_gpu_memory_used_bytes", "Memory of the GPU in use.", lambda one: one.memory_used_bytes),
    ("obt_gpu_temperature_celsius", "Of the GPU.", lambda one: one.temperature_celsius),
    ("obt_gpu_power_watts", "What the GPU draws.", lambda one: one.power_watts),
)


@dataclass(frozen=True, kw_only=True)
class MachineFigures:
    """One machine as it is now; what only a live session knows is empty while it is offline."""

    id: str
    name: str
    version: str
    online: bool
    heartbeat: HeartbeatParams | None = None
    heartbeat_at: float | None = None
    gpus: tuple[GpuTitle, ...] = ()

    @classmethod
    def of(cls, record: AgentRecord, presence: Presence | None) -> MachineFigures:
        """Return the figures of a stored agent and its session."""
        return cls(
            id=record.id,
            name=record.name,
            version=record.version,
            online=presence is not None,
            heartbeat=presence.heartbeat if presence is not None else None,
            heartbeat_at=presence.heartbeat_at if presence is not None else None,
            gpus=presence.gpus[:MAX_GPUS] if presence is not None else (),
        )


def families(machines: Sequence[MachineFigures]) -> Iterator[Metric]:
    """Yield the metrics. Series are by the agent's id, which is fixed; its name is in ``obt_agent_info``."""
    info = GaugeMetricFamily("obt_agent_info", "Name and release of an agent; 1.", labels=_INFO_LABELS)
    up = GaugeMetricFamily("obt_agent_up", "Whether the agent is connected.", labels=("agent",))
    age = GaugeMetricFamily("obt_agent_heartbeat_age_seconds", "Since its heartbeat.", labels=("agent",))
    for one in machines:
        info.add_metric((one.id, _words(one.name), _words(one.version)), 1)
        up.add_metric((one.id,), float(one.online))
        if one.heartbeat_at is not None:
            age.add_metric((one.id,), max(0.0, time.time() - one.heartbeat_at))
    yield from (info, up, age)
    beats = [(one.id, one.heartbeat) for one in machines if one.heartbeat is not None]
    for name, words, of_heartbeat in _OF_HEARTBEAT:
        yield _family(name, words, (((agent,), of_heartbeat(beat)) for agent, beat in beats), ("agent",))
    samples = [(agent, beat.hardware) for agent, beat in beats if beat.hardware is not None]
    for name, words, of_sample in _OF_SAMPLE:
        yield _family(name, words, (((agent,), of_sample(one)) for agent, one in samples), ("agent",))
    yield from _gpu_families(machines)


_INFO_LABELS: Final = ("agent", "name", "version")
_GPU_LABELS: Final = ("agent", "gpu")


def _gpu_families(machines: Sequence[MachineFigures]) -> Iterator[Metric]:
    """Yield those of GPUs, which are counted in the inventory's order: ids are the machine's own words."""
    titles = GaugeMetricFamily("obt_gpu_info", "Name of a GPU; 1.", labels=(*_GPU_LABELS, "name"))
    total: list[tuple[tuple[str, str], float | None]] = []
    live: list[tuple[tuple[str, str], LightGpu]] = []
    for one in machines:
        sample = one.heartbeat.hardware if one.heartbeat is not None else None
        by_id = {} if sample is None else {gpu.id: gpu for gpu in sample.gpus}
        for number, title in enumerate(one.gpus):
            labels = (one.id, str(number))
            titles.add_metric((*labels, _words(title.name)), 1)
            total.append((labels, title.memory_total_bytes))
            if title.id in by_id:
                live.append((labels, by_id[title.id]))
    yield titles
    yield _family("obt_gpu_memory_total_bytes", "Memory of the GPU.", total, _GPU_LABELS)
    for name, words, value in _OF_GPU:
        yield _family(name, words, ((labels, value(gpu)) for labels, gpu in live), _GPU_LABELS)


def _family(name: str, words: str, values: Any, labels: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for of_labels, value in values:
        number = _number(value)
        # What a machine cannot read has no series: a zero would be a reading.
        if number is not None:
            family.add_metric(of_labels, number)
    return family


def _number(value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    # An agent may send a whole number of any length; one of them must not take the others' figures away.
    except OverflowError:
        return None


def _words(text: str) -> str:
    return printable(text, _NAME_CHARS)
