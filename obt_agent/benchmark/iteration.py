"""Warm-ups and measured iterations of one cell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from obt_agent.benchmark import flags, resources, statistics, stopping_rule, synthetic
from obt_agent.benchmark.attempt import AttemptResult, attempt
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.flags import ExpectedConditions
from obt_agent.benchmark.iteration_retry import IterationRetry
from obt_agent.benchmark.ollama_recovery import OllamaRecovery
from obt_agent.benchmark.records import IterationRecord, WarmupRecord
from obt_agent.benchmark.request_body import Prompt, opened
from obt_agent.benchmark.result import CacheState, IterationMetrics, RequestTimings, Warmup
from obt_agent.benchmark.run_state import RunState

# Degrees above the starting temperature that count as cooled down.
COOL_ABOVE_START_C: Final = 5.0


class CooldownResult(NamedTuple):
    """How long was waited, and whether the temperature came down; a machine without a sensor is cool."""

    seconds: float
    reached: bool


_COOL: Final = CooldownResult(0.0, reached=True)


class CellRunner:
    """Warms up and measures one cell."""

    def __init__(self, state: RunState, cell: Cell) -> None:
        self._state = state
        self._cell = cell
        # Words of the next synthetic prompt; corrected by each warm-up, fixed while measuring.
        self._words = self._planned_words()
        # The model ended an iteration early although it was asked again and again: the rest are not repeated.
        self._stops_early = False
        # Loads the model again by a whole request, which goes into no figure.
        self._recovery = OllamaRecovery(state, lambda: self._send(self._fresh(), cached=False))

    async def warm_up_once(self) -> Warmup:
        """One warm-up in the full shape; recorded, and the prompt's length calibrated by it."""
        state, cell = self._state, self._cell
        index = len(state.warmups_of(cell))
        state.enter("warmup", cell, index + 1)
        prompts = self._repeated if state.plan.cache_mode == "warm" else self._fresh
        done = await self._recovery.surviving(lambda: self._send(prompts(), cached=False))
        warmup = _as_warmup(cell, index, self._words, done)
        await state.record(WarmupRecord(warmup=warmup))
        if warmup.words is not None and warmup.prompt_tokens is not None:
            state.observations.append(synthetic.Observation(warmup.words, warmup.prompt_tokens))
            self._words = self._planned_words()
        state.learn_offload(done.whole.gpu_offload_ratio)
        state.learn_line(done.whole.tokens_per_chunk)
        return warmup

    async def measure_once(self) -> None:
        """One measured iteration, or a pair of them; recorded."""
        cooled = await cool_down(self._state, self._cell)
        mode = self._state.plan.cache_mode
        if mode == "warm":
            await self._iterate(self._repeated(), "warm", cooled)
            return
        prompts = await self._iterate(None, "bust", cooled)
        if mode == "pair":
            await self._iterate(prompts, "warm", _COOL)

    async def _iterate(
        self, given: list[Prompt] | None, cache: CacheState, cooled: CooldownResult
    ) -> list[Prompt]:
        """Measure and record one iteration; returns the prompts that it ended with."""
        state, cell = self._state, self._cell
        before, gone = len(state.of_cell(cell)), self._recovery.times
        state.enter("iteration", cell, before + 1)
        state.other_models_used.clear()
        sampled = not state.plan.alternate_sampling or _sampled_turn(
            before, in_pairs=state.plan.cache_mode == "pair"
        )
        retry = IterationRetry(
            given,
            fresh=self._fresh,
            send=partial(self._send, cached=cache == "warm", sampled=sampled),
            survive=self._recovery.surviving,
            stops_early=self._stops_early,
        )
        # Paused around the request alone: between iterations cooling down needs its samples.
        if not sampled:
            await state.sampler.pause()
        try:
            done = await retry.run()
        finally:
            state.sampler.resume()
        self._stops_early = retry.stops_early
        raised = retry.flags | ({"after_restart"} if self._recovery.times > gone else set())
        raised |= set() if cooled.reached else {"cooldown_timeout"}
        one = self._as_metrics(retry, done, cache, cooled.seconds, sampled=sampled)
        raised |= flags.of_iteration(one, self._expected(), done.loaded)
        state.learn_line(one.tokens_per_chunk)
        await state.record(IterationRecord(metrics=flags.with_flags(one, raised)))
        return retry.prompts

    async def _send(self, prompts: list[Prompt], *, cached: bool, sampled: bool = True) -> AttemptResult:
        return await attempt(self._state, self._cell, prompts, cached=cached, sampled=sampled)

    def _as_metrics(
        self, retry: IterationRetry, done: AttemptResult, cache: CacheState, cooled_s: float, *, sampled: bool
    ) -> IterationMetrics:
        state, several = self._state, len(done.requests) > 1
        queued = [one.unaccounted_ms for one in done.requests if one.unaccounted_ms is not None]
        fields: dict[str, Any] = msgspec.structs.asdict(done.whole)
        fields["cpu_agent_percent"] = done.agent_cpu_percent
        fields["unavailable"] = done.whole.unavailable | _unavailable(done, several=several)
        tokens = done.whole.completion_tokens
        return IterationMetrics(
            **fields,
            index=state.metrics[-1].index + 1 if state.metrics else 0,
            cell=self._cell.index,
            started_at=done.started_at,
            prompt_sha256=_digest(retry.prompts),
            cache_state=cache,
            attempts=retry.attempts,
            sampled=sampled,
            cooldown_s=cooled_s,
            num_ctx=done.loaded.context_length if done.loaded else None,
            other_models_used=tuple(sorted(state.other_models_used)),
            output_tps_total=tokens * 1e3 / done.wall_ms if several and tokens and done.wall_ms else None,
            queue_ms_max=max(queued, default=None),
            requests=done.requests if several else (),
        )

    def _expected(self) -> ExpectedConditions:
        state, cell = self._state, self._cell
        # The first warm-up may have loaded the model, and saved no prompt; the others show what either takes.
        loads = [one.load_ms for one in state.warmups_of(cell)[1:] if one.load_ms is not None]
        slots = [one.slot_ms for one in state.warmups_of(cell)[1:] if one.slot_ms is not None]
        return ExpectedConditions(
            num_ctx=cell.num_ctx,
            prompt_tokens=cell.prompt.prompt_tokens,
            digest=state.environment.model_digest,
            warm_load_ms=min(loads, default=None),
            slot_ms=min(slots, default=None),
            cores=None if state.inventory is None else state.inventory.cpu.logical_cores,
        )

    def _planned_words(self) -> int:
        target = self._cell.prompt.prompt_tokens
        return 0 if target is None else synthetic.words_for(target, self._state.observations)

    def _fresh(self) -> list[Prompt]:
        """Prompts that were never sent before."""
        return self._prompts(synthetic.nonce)

    def _repeated(self) -> list[Prompt]:
        """The cell's one prompt, the same each time."""
        return self._prompts(lambda: None)

    def _prompts(self, nonce: Callable[[], str | None]) -> list[Prompt]:
        return [opened(self._cell, nonce(), self._words) for _ in range(self._cell.concurrency)]


async def cool_down(state: RunState, cell: Cell) -> CooldownResult:
    """Wait for the starting temperature + 5 °C, at most the plan's ``cooldown_s`` or the host's."""
    start, most = state.start_temperature, min(state.plan.cooldown_s, state.limits.cooldown_s)
    if start is None or not most:
        return CooldownResult(0.0, reached=True)
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        sample = state.sampler.latest
        now = resources.hottest(sample) if sample else None
        if now is None or now <= start + COOL_ABOVE_START_C:
            return CooldownResult(waited, reached=True)
        left = min(most - waited, state.seconds_left)
        if left <= 0:
            return CooldownResult(waited, reached=False)
        state.enter("cooldown", cell)
        await state.sampler.wait_next(left)


def _sampled_turn(before: int, *, in_pairs: bool) -> bool:
    """Whether an iteration is sampled when sampling alternates, by how many the cell has before it.

    On, off, off, on, and so forth: a drift of the machine in one direction then favours neither. Both halves
    of a cache pair have the same turn, for only equal cache states compare.
    """
    return (before // 2 if in_pairs else before) % 4 in (0, 3)


def _unavailable(done: AttemptResult, *, several: bool) -> dict[str, str]:
    """Why figures are null that an iteration has beside those of its requests."""
    reasons: dict[str, str] = {}
    if not several:
        reasons["output_tps_total"] = "one request at a time: see output_tps_wall"
    if "unaccounted_ms" in done.whole.unavailable:
        reasons["queue_ms_max"] = done.whole.unavailable["unaccounted_ms"]
    if done.loaded is None:
        reasons["num_ctx"] = "Ollama did not list the model after the iteration"
    return reasons


def _as_warmup(cell: Cell, index: int, words: int, done: AttemptResult) -> Warmup:
    loads = [one.load_ms for one in done.requests if one.load_ms is not None]
    open_ms = [max(one.unaccounted_ms, 0.0) for one in done.requests if one.unaccounted_ms is not None]
    return Warmup(
        cell=cell.index,
        index=index,
        tokens_per_second=stopping_rule.decode_speed(done.whole),
        first_token_ms=done.whole.first_token_ms,
        total_duration_ms=done.whole.total_duration_ms,
        load_ms=max(loads, default=None),
        slot_ms=min(open_ms, default=None),
        prompt_tokens=_mean_prompt(done.requests),
        completion_tokens=done.whole.completion_tokens,
        words=words if cell.prompt.synthetic else None,
    )


def _mean_prompt(requests: tuple[RequestTimings, ...]) -> int | None:
    counts = [one.prompt_tokens for one in requests if one.prompt_tokens is not None]
    return round(statistics.mean(counts)) if counts else None


def _digest(prompts: list[Prompt]) -> str:
    return hashlib.sha256("\0".join(prompt.text for prompt in prompts).encode()).hexdigest()
