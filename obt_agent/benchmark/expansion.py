"""A plan's cells, and what it costs at worst: computed without running or even listing it. Pure.

The policy refuses a plan by its ``Budget`` before anything is expanded, so ``budget`` multiplies counts and
never builds a list.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from obt_agent.benchmark import prompts
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.errors import InvalidParams, TooLarge

# More cells than this are refused whatever the policy says.
MAX_CELLS: Final = 4096
# Warm-ups of a cell whose plan leaves the number open.
MAX_WARMUPS: Final = 4
# How often one iteration is repeated because the model stopped early.
MAX_SHORT_RETRIES: Final = 3
# Longest wait for Ollama to list nothing after an unload.
COLD_LOAD_ALLOWANCE_S: Final = 60.0
# Longest preflight wait for memory of the GPU to settle and for idle power.
SETTLE_ALLOWANCE_S: Final = 30.0

# Generous upper estimate of a synthetic prompt's bytes for each token.
_BYTES_PER_TOKEN: Final = 8
# Ollama's own default is 4096; steps keep plans of nearly equal length on one context.
_LEAST_CONTEXT: Final = 4096
_CONTEXT_STEP: Final = 1024
# Room for the template's tokens and for a prompt that is calibrated a little long.
_CONTEXT_MARGIN: Final = 256


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of prompt, context and concurrency. ``num_ctx`` is what is sent to Ollama."""

    index: int
    prompt: PromptConfig
    num_ctx: int
    concurrency: int

    @property
    def label(self) -> str:
        """Short name for people, such as ``512:128 ctx 4096 x2``."""
        source = self.prompt.prompt_tokens or self.prompt.prompt_name or "text"
        return f"{source}:{self.prompt.completion_tokens} ctx {self.num_ctx} x{self.concurrency}"


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan costs at most.

    ``iterations`` are measured ones (a concurrent iteration is one); ``requests`` counts every request to
    Ollama that generates, warm-ups and repeats of short outputs included; ``completion_tokens``,
    ``prompt_tokens`` and ``prompt_bytes`` are summed over requests; ``worst_seconds`` is bounded by the
    plan's ``max_duration_s``. ``num_ctx`` and ``concurrency`` are the largest.
    """

    cells: int
    iterations: int
    requests: int
    completion_tokens: int
    prompt_tokens: int
    prompt_bytes: int
    worst_seconds: float
    num_ctx: int
    concurrency: int


def prompt_text(prompt: PromptConfig) -> str | None:
    """The text of a prompt; None when it is synthetic.

    Raises:
        InvalidParams: the agent has no prompt of that name.
    """
    if prompt.prompt_name is None:
        return prompt.prompt
    text = prompts.NAMED.get(prompt.prompt_name) if prompt.suite_name in (None, prompts.SUITE) else None
    if text is None:
        known = ", ".join(sorted(prompts.NAMED))
        suite = f" of suite {prompt.suite_name!r}" if prompt.suite_name else ""
        raise InvalidParams(
            f"this agent has no prompt {prompt.prompt_name!r}{suite}; "
            f"send its text as prompt, or use one of: {known}"
        )
    return text


def context_for(plan: Plan) -> int:
    """The ``num_ctx`` that is pinned when neither plan nor sweep names one, in tokens."""
    lengths = plan.sweep.prompt_tokens
    need = max(
        (max(lengths) if lengths else _tokens_at_most(prompt)) + prompt.completion_tokens
        for prompt in plan.all_prompts
    )
    steps = math.ceil((need + _CONTEXT_MARGIN) / _CONTEXT_STEP)
    return max(_LEAST_CONTEXT, steps * _CONTEXT_STEP)


def budget(plan: Plan) -> Budget:
    """What the plan costs at most. Arithmetic on counts: as cheap for a million cells as for one.

    Raises:
        InvalidParams: a prompt is named that the agent does not have.
    """
    base = plan.all_prompts
    lengths = len(plan.sweep.prompt_tokens) or 1
    contexts = plan.sweep.num_ctx or (plan.num_ctx or context_for(plan),)
    streams = plan.sweep.concurrency or (1,)
    cells = len(base) * lengths * len(contexts) * len(streams)
    iterations = plan.most_iterations * (2 if plan.cache_mode == "pair" else 1)
    warmups = MAX_WARMUPS if plan.warmup_iterations is None else plan.warmup_iterations
    # At worst every iteration is repeated as often as may be, and all warm-ups are needed.
    rounds = iterations * (1 + MAX_SHORT_RETRIES) + warmups
    requests_of_prompt = rounds * sum(streams) * len(contexts)
    prompt_tokens = requests_of_prompt * sum(_swept_tokens(plan, prompt) for prompt in base)
    prompt_bytes = requests_of_prompt * sum(_swept_bytes(plan, prompt) for prompt in base)
    return Budget(
        cells=cells,
        iterations=cells * iterations,
        requests=requests_of_prompt * lengths * len(base),
        completion_tokens=requests_of_prompt * lengths * sum(prompt.completion_tokens for prompt in base),
        prompt_tokens=prompt_tokens,
        prompt_bytes=prompt_bytes,
        worst_seconds=_worst_seconds(plan, cells, iterations, rounds),
        num_ctx=max(contexts),
        concurrency=max(streams),
    )


def expand(plan: Plan) -> tuple[Cell, ...]:
    """The plan's cells in the order in which they run: context outermost, for changing it reloads the model.

    Raises:
        TooLarge: more than ``MAX_CELLS`` cells.
        InvalidParams: an unknown prompt name, or a cell that does not fit its ``num_ctx``.
    """
    cost = budget(plan)
    if cost.cells > MAX_CELLS:
        raise TooLarge(
            f"the plan expands into {cost.cells} cells, and {MAX_CELLS} is the most: "
            "shorten prompts, sweep.prompt_tokens, sweep.num_ctx or sweep.concurrency",
            cells=cost.cells,
        )
    contexts = plan.sweep.num_ctx or (plan.num_ctx or context_for(plan),)
    # The context is outermost: each change of it reloads the model.
    combinations = [
        (prompt, num_ctx, concurrency)
        for num_ctx in contexts
        for prompt in _swept(plan)
        for concurrency in plan.sweep.concurrency or (1,)
    ]
    cells = tuple(
        Cell(index=index, prompt=prompt, num_ctx=num_ctx, concurrency=concurrency)
        for index, (prompt, num_ctx, concurrency) in enumerate(combinations)
    )
    for cell in cells:
        _check_fits(cell)
    return cells


def _check_fits(cell: Cell) -> None:
    need = (cell.prompt.prompt_tokens or 0) + cell.prompt.completion_tokens
    if need > cell.num_ctx:
        raise InvalidParams(
            f"{need} tokens of prompt and answer do not fit num_ctx {cell.num_ctx}: "
            f"raise num_ctx to at least {need + _CONTEXT_MARGIN}, or leave it out"
        )


def _swept(plan: Plan) -> list[PromptConfig]:
    lengths = plan.sweep.prompt_tokens
    if not lengths:
        return list(plan.all_prompts)
    return [
        msgspec.structs.replace(prompt, prompt_tokens=length)
        for prompt in plan.all_prompts
        for length in lengths
    ]


def _swept_tokens(plan: Plan, prompt: PromptConfig) -> int:
    lengths = plan.sweep.prompt_tokens
    return sum(lengths) if lengths else _tokens_at_most(prompt)


def _swept_bytes(plan: Plan, prompt: PromptConfig) -> int:
    text = prompt_text(prompt)
    if text is not None:
        return len(text.encode())
    return _swept_tokens(plan, prompt) * _BYTES_PER_TOKEN


def _tokens_at_most(prompt: PromptConfig) -> int:
    """An upper estimate of a prompt's tokens: two bytes a token is denser than any text in ordinary use."""
    text = prompt_text(prompt)
    return prompt.prompt_tokens or 0 if text is None else math.ceil(len(text.encode()) / 2)


def _worst_seconds(plan: Plan, cells: int, iterations: int, rounds: int) -> float:
    each = rounds * plan.timeout_s + iterations * plan.cooldown_s + plan.cooldown_s
    load = (COLD_LOAD_ALLOWANCE_S + plan.timeout_s) * (1 if plan.cold_load else 0)
    settle = SETTLE_ALLOWANCE_S + (plan.settle.max_wait_s if plan.settle else 0.0)
    return min(plan.max_duration_s, cells * each + load + settle)
