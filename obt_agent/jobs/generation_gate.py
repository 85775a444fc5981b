"""Requests for generation that come while a benchmark measures: held off, or noted in its result."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from obt_agent.errors import Busy

# When a refused generation may try again: benchmarks run for minutes.
HELD_OFF_MS = 30_000


class GenerationGate:
    """Stands between the server's generations and a running benchmark.

    Args:
        during_benchmark: ``note`` lets them through and counts them, ``refuse`` answers ``busy``.
    """

    def __init__(self, during_benchmark: Literal["note", "refuse"] = "note") -> None:
        self._mode = during_benchmark
        # The job that measures; None while none does.
        self._benchmark: str | None = None
        # By method, the generations that came while it measured.
        self._noted: Counter[str] = Counter()
        # By method, the generations that run now, whether a benchmark runs or not.
        self._under_way: Counter[str] = Counter()

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

    @contextlib.contextmanager
    def benchmark(self, job_id: str) -> Iterator[Counter[str]]:
        """Around a benchmark; gives what is counted: requests under way at its start, and later ones."""
        # Those under way keep Ollama busy too. The unary plus copies them, without the zeros.
        self._noted = +self._under_way
        self._benchmark = job_id
        try:
            yield self._noted
        finally:
            self._benchmark = None
