"""Which of Ollama's processes are the model's, and what they hold without kept prompts. Pure.

A machine may run several Ollamas, and each of them several models. A benchmark's figures are those of the
server that it talks to and of the one process that runs its model; what cannot be told apart is null with the
reason, never a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark import resources
from obt_agent.hardware.samples import OllamaProcess, Sample

NOT_SEEN: Final = "Ollama's processes were not seen"
_SEVERAL_SERVERS: Final = (
    "several Ollama servers run here, and the one at this address could not be told apart"
)
_SEVERAL_RUNNERS: Final = "several runners of this Ollama could not be told apart"
_NO_RUNNER: Final = "the process that runs the model was not seen"
_LOADED_BEFORE: Final = (
    "the model was loaded before the run, and Ollama keeps finished prompts in that process: unload it "
    "first (ollama stop NAME), or read memory_peak_mb"
)
_NO_READING: Final = "no sample came between the first answer after the load and the next request"


class ModelProcesses(NamedTuple):
    """The server and, while the model is loaded, its runner; ``reason`` says why one is missing."""

    processes: tuple[OllamaProcess, ...]
    reason: str | None = None


class ProcessFilter(NamedTuple):
    """What tells the processes: the port that the benchmark talks to, and the digest of the weights."""

    port: int | None = None
    blob: str | None = None

    def select(self, seen: Sequence[OllamaProcess]) -> ModelProcesses:
        """Return the model's processes out of all of Ollama's."""
        servers = [one for one in seen if one.role == "server"]
        if not servers:
            return ModelProcesses((), NOT_SEEN)
        server = self._server(servers, seen)
        if server is None:
            return ModelProcesses((), _SEVERAL_SERVERS)
        runners = [one for one in seen if one.role == "runner" and one.server_pid == server.pid]
        ours = self._runners(runners)
        if len(ours) == 1:
            return ModelProcesses((server, ours[0]))
        # Without a runner the server stands alone: that is what it holds before the model is loaded.
        return ModelProcesses((server,), _SEVERAL_RUNNERS if ours else _NO_RUNNER)

    def _server(
        self, servers: Sequence[OllamaProcess], seen: Sequence[OllamaProcess]
    ) -> OllamaProcess | None:
        """The server at our port, by its environment; else the only one that is left."""
        here = [one for one in servers if one.port == self.port]
        # Several with our port are in containers of their own; a port that is not known may be ours.
        candidates = here or [one for one in servers if one.port is None]
        if len(servers) == 1:
            # Whatever its port: a container, or a proxy before it, listens at ours.
            candidates = list(servers)
        if len(candidates) > 1:
            running = {one.server_pid for one in seen if one.blob is not None and one.blob == self.blob}
            candidates = [one for one in candidates if one.pid in running]
        return candidates[0] if len(candidates) == 1 else None

    def _runners(self, runners: Sequence[OllamaProcess]) -> list[OllamaProcess]:
        if self.blob is not None and any(one.blob == self.blob for one in runners):
            return [one for one in runners if one.blob == self.blob]
        # One whose weights are known, and are others, is not ours.
        return [one for one in runners if one.blob is None or self.blob is None]


class MemoryReading(NamedTuple):
    """MiB of the model's processes without kept prompts; None with the reason where that is not known."""

    mb: float | None
    reason: str = NOT_SEEN
    # Nothing is to be learnt of this process any more.
    known: bool = False


class ModelMemory:
    """Resident memory once the model has answered for the first time after its load, for each process.

    llama-server keeps the key-value cache of finished prompts in the host's memory, so that what is resident
    grows with every prompt. After the first answer the weights and the buffers are there, and the first
    prompt is still in its slot: nothing was kept yet.
    """

    def __init__(self) -> None:
        # Runners that answered before the run did: what they keep is not known.
        self._before: set[int] = set()
        # MiB by the runner's PID, as of its first answer in this run.
        self._first: dict[int, float] = {}
        # A first answer went by with no sample after it: the process that shows next holds kept prompts.
        self.late = False
        # Such processes.
        self._unread: set[int] = set()

    def seen_before(self, sample: Sample) -> None:
        """The model was loaded before the run, and its Ollama keeps prompts."""
        pids = _runner_pids([sample])
        self._before |= pids
        # Loaded and not seen: the next one that shows is taken for it.
        self.late = not pids

    def first_answer(self, samples: Sequence[Sample], first_token_ns: int) -> bool:
        """Take the memory of a load that answered from then on; return whether there is nothing to wait for.

        The last sample counts: no prompt is kept before the next request begins.
        """
        after = [one for one in samples if one.t_mono_ns >= first_token_ns and _runner_pids([one])]
        if not after:
            return False
        rss = resources.ollama_rss(after[-1])
        new = _runner_pids(after[-1:]) - self._first.keys() - self._unread
        if new and self.late:
            self._unread |= new
        elif rss is not None:
            self._first |= dict.fromkeys(new, rss)
        self.late = self.late and not new
        return True

    def give_up(self) -> None:
        """No sample came before the next request."""
        self.late = True

    def of(self, samples: Sequence[Sample]) -> MemoryReading:
        """The memory of the process that the last of these samples shows."""
        pids = next((pids for one in reversed(samples) if (pids := _runner_pids([one]))), set[int]())
        if not pids:
            return MemoryReading(None)
        if pids & self._before:
            return MemoryReading(None, _LOADED_BEFORE, known=True)
        known = [self._first[pid] for pid in pids if pid in self._first]
        if known:
            return MemoryReading(known[0], known=True)
        return MemoryReading(None, _NO_READING, known=not pids.isdisjoint(self._unread))


def _runner_pids(samples: Sequence[Sample]) -> set[int]:
    return {one.pid for sample in samples for one in sample.ollama if one.role == "runner"}
