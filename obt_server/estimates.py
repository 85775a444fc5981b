"""How long a plan takes on a machine, from earlier results. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from obt_agent.benchmark.expansion import Cell, expand
from obt_agent.benchmark.plan import Plan, plan_hash
from obt_server.result_index import IndexedResult
from obt_server.rollout_storage import model_key

USUAL_WARMUPS: Final = 2


@dataclass(frozen=True)
class Estimate:
    """About how many seconds, and the result that says so."""

    seconds: float
    like: IndexedResult


class Estimates:
    """What earlier results say of what is to be measured.

    Args:
        lines: the results, the newest first.
    """

    def __init__(self, lines: Sequence[IndexedResult]) -> None:
        # The newest of each machine and model; a run of another model says nothing of its speed.
        self._of_model: dict[tuple[str, str], IndexedResult] = {}
        # The newest whole one of each machine, model and plan.
        self._of_cell: dict[tuple[str, str, str], IndexedResult] = {}
        for line in lines:
            key = line.stored.agent_id, model_key(line.model)
            self._of_model.setdefault(key, line)
            hashed = line.digest.environment.plan_hash
            if hashed is not None and line.digest.status == "completed" and line.digest.seconds:
                self._of_cell.setdefault((*key, hashed), line)

    def of(self, plan: Plan, agent_id: str) -> Estimate | None:
        """Return the estimate of a plan with its model; None where no result is like it.

        Raises:
            TooLarge, InvalidParams: the plan does not expand.
        """
        key = agent_id, model_key(plan.model_name)
        same = self._of_cell.get((*key, plan_hash(plan)))
        # The same measurement took as long as it took, with its load and its pauses.
        if same is not None and same.digest.seconds:
            return Estimate(same.digest.seconds, same)
        like = self._of_model.get(key)
        seconds = None if like is None else _seconds(plan, like)
        return None if like is None or seconds is None else Estimate(seconds, like)


def _seconds(plan: Plan, like: IndexedResult) -> float | None:
    """Prompt and answer at the speeds of that run; warm-ups count as iterations do."""
    # Medians, so that one slow iteration (another program, a load) does not stretch the estimate.
    decode, prefill = like.medians.get("decode_tps_corrected"), like.medians.get("prefill_tps_ttft")
    if not decode:
        return None
    total = sum(_cell_seconds(plan, cell, decode, prefill) for cell in expand(plan))
    # The agent ends the run there, whatever is left.
    return min(total, plan.max_duration_s)


def _cell_seconds(plan: Plan, cell: Cell, decode: float, prefill: float | None) -> float:
    warmups = USUAL_WARMUPS if plan.warmup_iterations is None else plan.warmup_iterations
    halves = 2 if plan.cache_mode == "pair" else 1
    # Plain text has no count of tokens; its prefill is left out, and the estimate is called one.
    prompt = (cell.prompt.prompt_tokens or 0) / prefill if prefill else 0.0
    one = prompt + cell.prompt.completion_tokens / decode
    # An adaptive plan runs until both are reached: its number, and its time.
    least = max(plan.num_iterations, plan.min_duration_s / one if plan.max_iterations else 0.0)
    return (min(least, plan.most_iterations) * halves + warmups) * one
