"""One attempt of an iteration: its requests, the machine around them, and the figures of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from obt_agent.benchmark import iteration_result, metrics, request_body
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.iteration_result import Edges, MachineContext
from obt_agent.benchmark.preflight import loaded
from obt_agent.benchmark.request import MeasuredRequest, generate
from obt_agent.benchmark.request_body import Prompt
from obt_agent.benchmark.resources import EdgeReading, TimeWindow
from obt_agent.benchmark.result import Observed, RequestTimings
from obt_agent.benchmark.run_state import Flow, RunState
from obt_agent.benchmark.sampling import energy_edge
from obt_agent.errors import DeadlineExceeded
from obt_agent.ollama.client import Line
from obt_agent.ollama.payloads import RunningModel


class OutOfTime(DeadlineExceeded):
    """The plan's ``max_duration_s`` is over."""


class AttemptResult(NamedTuple):
    """What one attempt gave. ``requests`` are in the order of the prompts; the agent's CPU is of one core."""

    started_at: datetime
    whole: Observed
    requests: tuple[RequestTimings, ...]
    wall_ms: float
    loaded: RunningModel | None
    agent_cpu_percent: float


class _FirstToken:
    """Reads the energy counters when the first text of the only request arrives."""

    def __init__(self, state: RunState, *, wanted: bool) -> None:
        self._state = state
        # False where the reading could not be parted: several requests at once, or no counters.
        self._wanted = wanted
        # The reading, from the first line on; it runs beside the stream, which must not wait for a driver.
        self._task: asyncio.Task[EdgeReading | None] | None = None

    def __call__(self, t_sent_ns: int, lines: list[Line]) -> None:
        self._state.flow.add(t_sent_ns, lines)
        if self._wanted and self._task is None:
            reading = energy_edge(self._state.machine, self._state.limits.reading_s)
            self._task = asyncio.create_task(reading, name="benchmark.energy-at-first-token")

    async def reading(self) -> EdgeReading | None:
        return await self._task if self._task is not None else None

    def drop(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def attempt(
    state: RunState, cell: Cell, prompts: Sequence[Prompt], *, cached: bool, sampled: bool
) -> AttemptResult:
    """Send the prompts at once, wait for all of them, and work out their figures.

    Raises:
        OutOfTime: the plan's time was over meanwhile.
        DeadlineExceeded: a request took longer than the plan's ``timeout_s``.
        OllamaError and its kinds, TooLarge.
    """
    # Without samples there is nothing to hold the counters beside, and reading them is part of what is
    # compared.
    edge_wanted = sampled and state.sampler.running
    first = _FirstToken(state, wanted=edge_wanted and len(prompts) == 1)
    state.sampler.forget()
    missed_before = state.sampler.missed
    before = await _edge(state, wanted=edge_wanted)
    started_at = datetime.now(UTC)
    own_cpu = _OwnCpu()
    state.flow = Flow(active=True)
    try:
        answered = await _in_time(state, cell, prompts, first)
        agent_percent = own_cpu.percent()
        after = await _edge(state, wanted=edge_wanted)
        at_first = await first.reading()
    finally:
        state.flow.active = False
        first.drop()
    if sampled:
        await _read_memory(state, min((at for one in answered if (at := one.first_token_ns)), default=None))
    # Asked after the counters were read: the answer takes milliseconds, which would go into the energy.
    running = (await state.ollama.running()).models
    state.note_listed(running)
    listed = loaded(running, state.plan.model_name)
    window = TimeWindow(min(one.t_sent_ns for one in answered), max(one.end_ns for one in answered))
    requests = _timings(state, cell, answered, cached=cached)
    wall_ms = window.seconds * 1e3
    context = MachineContext(
        window=window,
        samples=state.sampler.recent,
        missed=state.sampler.missed - missed_before,
        edges=Edges(before, at_first, after),
        baseline=state.baseline,
        memory=state.memory.of(state.sampler.recent),
        no_process=state.sampler.no_process,
        loaded=listed,
        first_token_ns=answered[0].first_token_ns if len(answered) == 1 else None,
        sampled=sampled,
    )
    whole = iteration_result.observe(iteration_result.combine_requests(requests, wall_ms), context)
    return AttemptResult(started_at, whole, requests, wall_ms, listed, agent_percent)


class _OwnCpu:
    """What of one core the agent itself takes from now on: for the machine it is one of the others."""

    def __init__(self) -> None:
        self._began_ns, self._cpu_ns = time.monotonic_ns(), time.process_time_ns()

    def percent(self) -> float:
        took_ns = max(time.monotonic_ns() - self._began_ns, 1)
        return 100 * (time.process_time_ns() - self._cpu_ns) / took_ns


def _timings(
    state: RunState, cell: Cell, answered: Sequence[MeasuredRequest], *, cached: bool
) -> tuple[RequestTimings, ...]:
    meaning = state.environment.metric_semantics
    return tuple(
        metrics.timings(
            one.trace,
            completion_tokens=cell.prompt.completion_tokens,
            cached=cached,
            num_ctx=cell.num_ctx,
            from_first_token=meaning is not None and meaning.eval_duration == "from_first_token",
        )
        for one in answered
    )


async def _read_memory(state: RunState, first_token_ns: int | None) -> None:
    """After a load's first answer, wait for a sample of what it holds: the next prompt adds to it."""
    sampler = state.sampler
    if first_token_ns is None or not sampler.running or state.memory.of(sampler.recent).known:
        return
    deadline = time.monotonic() + state.limits.runner_s
    while not state.memory.first_answer(sampler.recent, first_token_ns):
        left = deadline - time.monotonic()
        # Where not even a server is seen, no wait brings its runner; nor does a second wait bring the first
        # answer back.
        vain = state.memory.late or (sampler.latest is not None and not sampler.latest.ollama)
        if vain or left <= 0 or await sampler.wait_next(left) is None:
            state.memory.give_up()
            return


async def _edge(state: RunState, *, wanted: bool) -> EdgeReading | None:
    return await energy_edge(state.machine, state.limits.reading_s) if wanted else None


async def _in_time(
    state: RunState, cell: Cell, prompts: Sequence[Prompt], first: _FirstToken
) -> tuple[MeasuredRequest, ...]:
    """The requests, within the plan's deadline for one and for all."""
    deadline = asyncio.timeout(min(state.plan.timeout_s, state.seconds_left))
    try:
        async with deadline:
            return await _all(state, cell, prompts, first)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        if state.seconds_left <= 0:
            raise OutOfTime("the plan's max_duration_s is over", waited_for="benchmark") from error
        raise DeadlineExceeded(
            f"a request took longer than the plan's timeout_s of {state.plan.timeout_s:g} s: "
            "raise it, or ask for fewer tokens",
            waited_for="request",
        ) from error


async def _all(
    state: RunState, cell: Cell, prompts: Sequence[Prompt], first: _FirstToken
) -> tuple[MeasuredRequest, ...]:
    """All requests at once; the first failure ends the others."""
    bodies = [request_body.generate(state.plan, cell, prompt.text) for prompt in prompts]
    if len(bodies) == 1:
        return (await generate(state.ollama, bodies[0], first),)
    began = time.monotonic_ns()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    generate(state.ollama, one, first), name=f"benchmark.request-{number}-{began}"
                )
                for number, one in enumerate(bodies)
            ]
    except BaseExceptionGroup as errors:
        # The group's first is the failure; the others are what its cancellation made of the rest.
        raise errors.exceptions[0] from errors
    return tuple(task.result() for task in tasks)
