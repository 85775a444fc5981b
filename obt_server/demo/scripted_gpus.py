"""GPUs that do not exist: their readings follow what a stand-in for Ollama generates."""

from __future__ import annotations

import http.client
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from obt_agent.hardware.inventory import GpuInfo, GpuMemory, ProviderState
from obt_agent.hardware.provider import CostGroup, GpuReadings
from obt_agent.hardware.samples import GpuClocks, GpuSample

NAME: Final = "scripted"
NOT_REAL: Final = "a demonstration's script: this GPU does not exist"
GIB: Final = 1 << 30
# What a driver keeps for itself while no model is loaded.
RESERVED_BYTES: Final = GIB // 2
# How fast readings follow the load: the time after which 63 % of a change is there.
UTILIZATION_FOLLOWS_S: Final = 0.4
TEMPERATURE_FOLLOWS_S: Final = 25.0
IDLE_UTILIZATION: Final = 0.01
AWAKE_UTILIZATION: Final = 0.05
# Readings of a GPU under a steady load differ by about so much from one to the next.
NOISE: Final = 0.02
# The stand-in answers at once; a sample must not wait for one that is gone.
ANSWERS_WITHIN_S: Final = 0.5


class GpuScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU: its memory, and what it reads when idle and when busy.

    ``share`` is how busy it is, 0 to 1, while its stand-in generates: several GPUs take turns.
    """

    memory_gib: int
    idle_watts: float
    limit_watts: float
    idle_celsius: float
    busy_celsius: float
    share: float = 0.96
    idle_hertz: int = 210_000_000
    busy_hertz: int = 2_400_000_000


class StandInLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a stand-in does: generations that run or wait, and bytes that its models take on its GPUs."""

    generating: int = 0
    size_vram: int = 0


def load_of(url: str) -> StandInLoad:
    """Ask a stand-in what it does; nothing, when it does not answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/_standin/load")
        return msgspec.json.decode(connection.getresponse().read(), type=StandInLoad)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return StandInLoad()
    finally:
        connection.close()


@dataclass
class _GpuState:
    """The readings of one GPU as they are now."""

    script: GpuScript
    utilization: float
    celsius: float
    watts: float
    # Since the agent started, as a driver counts since it was loaded.
    joules: float = 0.0

    def advance(self, seconds: float, wanted: float) -> None:
        """Let time pass in which the GPU is asked to be so busy, 0 to 1."""
        script, before = self.script, self.watts
        self.utilization += (wanted - self.utilization) * _followed(seconds, UTILIZATION_FOLLOWS_S)
        self.watts = script.idle_watts + (script.limit_watts - script.idle_watts) * self.utilization
        warm = script.idle_celsius + (script.busy_celsius - script.idle_celsius) * self.utilization
        self.celsius += (warm - self.celsius) * _followed(seconds, TEMPERATURE_FOLLOWS_S)
        self.joules += (before + self.watts) / 2 * seconds


class ScriptedGpus:
    """A provider of GPUs, as ``obt_agent.hardware.provider`` describes it, whose readings are made up.

    Args:
        scripts: one for each GPU.
        load: what the stand-in does; called in the provider's own thread.
        clock: seconds.
    """

    name = NAME

    def __init__(
        self,
        scripts: Sequence[GpuScript],
        load: Callable[[], StandInLoad],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._clock = clock
        self._gpus = [
            _GpuState(script, IDLE_UTILIZATION, script.idle_celsius, script.idle_watts) for script in scripts
        ]
        # When the readings were brought up to date last.
        self._at = clock()
        # Seeded: two demonstrations show the same.
        self._random = random.Random(0)  # noqa: S311 - noise protects nothing

    def probe(self) -> ProviderState:
        """Return that they can be read, and that they are not real."""
        return ProviderState(name=NAME, status="ok", reason=NOT_REAL)

    def inventory(self) -> tuple[GpuInfo, ...]:
        """Return the GPUs; each says in its name that it is scripted."""
        return tuple(
            GpuInfo(
                id=_id(index),
                vendor=NAME,
                provider=NAME,
                index=index,
                name=f"Scripted GPU, {gpu.script.memory_gib} GiB",
                memory=GpuMemory(kind="dedicated", total_bytes=gpu.script.memory_gib * GIB),
                power_limit_watts=gpu.script.limit_watts,
            )
            for index, gpu in enumerate(self._gpus)
        )

    def sample(self, group: CostGroup) -> GpuReadings:  # noqa: ARG002 -- nothing here costs a driver anything
        """Return the readings, brought up to now."""
        load = self._advance()
        now_ns = time.monotonic_ns()
        each = load.size_vram // max(1, len(self._gpus))
        return GpuReadings(tuple(self._sample(index, now_ns, each) for index in range(len(self._gpus))))

    def energy(self) -> dict[str, float]:
        """Return the joules so far, by GPU id."""
        self._advance()
        return {_id(index): gpu.joules for index, gpu in enumerate(self._gpus)}

    def follow(self, pids: tuple[int, ...]) -> None:
        """Take Ollama's processes: no process is on a GPU that does not exist."""

    def close(self) -> None:
        """Let go of nothing: each question to the stand-in has a connection of its own."""

    def _advance(self) -> StandInLoad:
        load, now = self._load(), self._clock()
        for gpu in self._gpus:
            gpu.advance(now - self._at, gpu.script.share if load.generating else IDLE_UTILIZATION)
        self._at = now
        return load

    def _sample(self, index: int, now_ns: int, used_bytes: int) -> GpuSample:
        gpu = self._gpus[index]
        script = gpu.script
        busy = min(1.0, gpu.utilization * self._noise())
        # Clocks rise with the first work, and stay up as long as there is some.
        hertz = script.busy_hertz if gpu.utilization > AWAKE_UTILIZATION else script.idle_hertz
        return GpuSample(
            id=_id(index),
            state="ok",
            t_mono_ns=now_ns,
            slow_t_mono_ns=now_ns,
            utilization_ratio=busy,
            memory_controller_ratio=busy * 0.7,
            # A model that was loaded beyond the memory lies in the system's, as with Ollama.
            memory_used_bytes=min(RESERVED_BYTES + used_bytes, script.memory_gib * GIB),
            power_watts=gpu.watts * self._noise(),
            energy_joules_total=gpu.joules,
            temperature_celsius=float(round(gpu.celsius)),
            clocks=GpuClocks(graphics_hertz=hertz),
            throttle_reasons=(),
            fan_ratio=min(1.0, max(0.0, (gpu.celsius - 40) / 50)),
        )

    def _noise(self) -> float:
        return 1 - self._random.uniform(0, NOISE)


def read_scripts(text: str) -> tuple[GpuScript, ...]:
    """Return the GPUs of a JSON list. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(text, type=tuple[GpuScript, ...])


def as_json(scripts: Sequence[GpuScript]) -> str:
    """Return the JSON list that ``read_scripts`` reads."""
    return json.dumps([msgspec.structs.asdict(script) for script in scripts])


def _followed(seconds: float, constant_s: float) -> float:
    """Return the share of a change that is there after so many seconds."""
    return 1 - math.exp(-max(0.0, seconds) / constant_s)


def _id(index: int) -> str:
    return f"{NAME}-gpu-{index}"
