"""A benchmark's plan against the owner's limits, before it is accepted. Pure.

A plan is taken whole or refused, never altered: two machines whose results carry one plan hash must have run
the same. Its cost is computed, never listed: a plan that multiplies costs no more to refuse than another.
"""

from __future__ import annotations

from obt_agent.benchmark.expansion import budget, expand, prompt_text
from obt_agent.benchmark.plan import Plan
from obt_agent.config.schema import PolicyConfig
from obt_agent.errors import InvalidParams, NotPermitted
from obt_agent.policy.requests import go_seconds

_SYNTHETIC_BYTES_PER_TOKEN = 8


def check_plan(plan: Plan, config: PolicyConfig, max_tokens: int) -> None:
    """Refuse a plan that the owner's limits do not cover.

    Args:
        plan: as it came.
        config: the policy.
        max_tokens: most output tokens of one request.

    Raises:
        NotPermitted: with ``policy_key``, what the plan asks for and what is allowed.
        InvalidParams, TooLarge: the plan cannot be run at all.
    """
    cost = budget(plan)
    limits = config.benchmark
    _within("iterations", cost.iterations, limits.max_iterations, "policy.benchmark.max_iterations")
    _within("output tokens", cost.completion_tokens, limits.max_tokens, "policy.benchmark.max_tokens")
    _within("prompt bytes", cost.prompt_bytes, limits.max_prompt_bytes, "policy.benchmark.max_prompt_bytes")
    _within("seconds at most", cost.worst_seconds, limits.max_seconds, "policy.benchmark.max_seconds")
    _within("requests at once", cost.concurrency, config.max_streams, "policy.max_streams")
    _within("tokens of context", cost.num_ctx, config.options.num_ctx, "policy.options.num_ctx")
    _within("threads", plan.num_thread or 0, config.options.num_thread, "policy.options.num_thread")
    _within("seconds a request", plan.timeout_s, config.max_seconds, "policy.max_seconds")
    _check_keep_alive(plan, config.options.keep_alive_s)
    _check_prompts(plan, config.max_prompt_bytes, max_tokens)
    expand(plan)


def _check_prompts(plan: Plan, max_bytes: int, max_tokens: int) -> None:
    lengths = plan.sweep.prompt_tokens
    for prompt in plan.all_prompts:
        _within("output tokens of one request", prompt.completion_tokens, max_tokens, "policy.max_tokens")
        text = prompt_text(prompt)
        longest = max(lengths, default=prompt.prompt_tokens or 0)
        size = longest * _SYNTHETIC_BYTES_PER_TOKEN if text is None else len(text.encode())
        _within("bytes in one prompt", size, max_bytes, "policy.max_prompt_bytes")


def _check_keep_alive(plan: Plan, most_s: float | None) -> None:
    try:
        seconds = go_seconds(plan.keep_alive)
    except ValueError as error:
        field = "params.plan.keep_alive"
        raise InvalidParams(f"{field}: {error}.", field=field) from error
    if most_s is not None:
        asked = seconds if seconds >= 0 else float("inf")
        _within("seconds of keep_alive", asked, most_s, "policy.options.keep_alive_s")


def _within(what: str, asked: float, most: float | None, key: str) -> None:
    if most is None or asked <= most:
        return
    raise NotPermitted(
        f"The plan asks for {asked:g} {what}; the host's owner allows {most:g} ({key}).",
        policy_key=key,
        asked=asked if asked != float("inf") else None,
        allowed=most,
    )
