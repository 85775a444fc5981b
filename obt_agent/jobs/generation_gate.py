"""What else the server makes Ollama do while a benchmark measures: refused, paused or noted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from obt_agent.errors import Busy
from obt_agent.ollama.names import same_model

# When a refused generation may try again: benchmarks run for minutes.
HELD_OFF_MS = 30_000


class GenerationGate:
    """Stands between the server's other work and a running benchmark.

    Args:
        during_benchmark: of generations: ``note`` lets them through and counts them, ``refuse`` answers
            ``busy``.
        transfers: of pulls and creations: ``pause`` holds them until no benchmark runs, ``note`` lets them go
            on and counts them.
    """

    def __init__(
        self,
        during_benchmark: Literal["note", "refuse"] = "note",
        *,
        transfers: Literal["pause", "note"] = "pause",
    ) -> None:
        self._mode = during_benchmark
        self._transfer_mode = transfers
        # The job that measures, and its model; None while none does.
        self._benchmark: str | None = None
        self._model: str | None = None
        # By method, what came while it measured.
        self._noted: Counter[str] = Counter()
        # By method, the generations that run now, whether a benchmark runs or not.
        self._under_way: Counter[str] = Counter()
        # By method, the transfers that are connected to Ollama now, each with what pauses it.
        self._transfers: dict[Callable[[], bool], str] = {}
        # Set while no benchmark measures.
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.contextmanager
    def generation(self, method: str) -> Iterator[None]:
        """Around each request that makes Ollama work.

        Raises:
            Busy: a benchmark runs, and the owner wants it undisturbed.
        """
        if self._benchmark is not None and self._mode == "refuse":
            raise Busy(
                f"Benchmark {self._benchmark!r} is running; {method} would spoil its figures "
                "(benchmark.during_benchmark in the agent's configuration).",
                retry_after_ms=HELD_OFF_MS,
                policy_key="benchmark.during_benchmark",
            )
        if self._benchmark is not None:
            self._noted[method] += 1
        self._under_way[method] += 1
        try:
            yield
        finally:
            self._under_way[method] -= 1

    def check_deletion(self, model: str) -> None:
        """Refuse to take away the model that is being measured.

        Raises:
            Busy: it is.
        """
        if self._benchmark is not None and self._model is not None and same_model(model, self._model):
            raise Busy(
                f"Benchmark {self._benchmark!r} measures {model}; delete it when that has ended.",
                retry_after_ms=HELD_OFF_MS,
            )

    @property
    def pauses_transfers(self) -> bool:
        """Whether transfers give way to benchmarks at all."""
        return self._transfer_mode == "pause"

    @property
    def holds_transfers(self) -> str | None:
        """The benchmark for which transfers wait; None when they may run."""
        return self._benchmark if self.pauses_transfers else None

    async def transfers_may_run(self) -> None:
        """Wait until no benchmark holds transfers off."""
        # Another one may have begun before this task had its turn.
        while self.holds_transfers is not None:
            await self._idle.wait()

    @contextlib.contextmanager
    def transfer(self, method: str, pause: Callable[[], bool]) -> Iterator[None]:
        """Around each connection over which Ollama pulls or creates.

        ``pause`` is called when a benchmark begins: it closes the connection at once and returns true, or
        returns false where Ollama would go on all the same. That is then noted in the benchmark's result.
        """
        if self._benchmark is not None:
            self._noted[method] += 1
        self._transfers[pause] = method
        try:
            yield
        finally:
            del self._transfers[pause]

    def count_from_now(self) -> None:
        """Forget what was counted before the benchmark began to measure; what is still under way counts."""
        self._noted.clear()
        self._noted.update(+self._under_way)
        self._noted.update(self._transfers.values())

    @contextlib.contextmanager
    def benchmark(self, job_id: str, model: str | None = None) -> Iterator[Counter[str]]:
        """Around a benchmark; gives what is counted: requests under way at its start, and later ones."""
        # Those under way keep Ollama busy too. The unary plus copies them, without the zeros.
        self._noted = +self._under_way
        self._benchmark, self._model = job_id, model
        self._idle.clear()
        for pause, method in list(self._transfers.items()):
            if not (self.pauses_transfers and pause()):
                self._noted[method] += 1
        try:
            yield self._noted
        finally:
            self._benchmark = self._model = None
            self._idle.set()
