"""What the hardware room is told by its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HardwareSettings:
    """Cadences and deadlines, in seconds.

    ``root`` is "/" or a snapshot's folder. ``ollama_url`` tells whether Ollama's processes are to be looked
    for on this machine. ``models_path`` is the model store, when Ollama's process cannot be asked for it. A
    GPU call that takes longer than ``gpu_deadline_s`` is stalled; what is stalled, lost or degraded is probed
    again after ``retry_first_s``, doubling up to ``retry_most_s``.
    """

    idle_interval_s: float = 30.0
    active_interval_s: float = 1.0
    benchmark_interval_s: float = 0.5
    min_interval_s: float = 0.2
    root: Path = Path("/")
    ollama_url: str = "http://127.0.0.1:11434"
    models_path: str | None = None
    slow_interval_s: float = 5.0
    look_interval_s: float = 30.0
    gpu_deadline_s: float = 2.0
    host_deadline_s: float = 10.0
    probe_deadline_s: float = 15.0
    retry_first_s: float = 30.0
    retry_most_s: float = 600.0
    close_deadline_s: float = 1.0
