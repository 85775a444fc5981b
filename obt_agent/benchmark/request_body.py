"""The requests that a benchmark sends to Ollama, as JSON. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from obt_agent.benchmark import synthetic
from obt_agent.benchmark.expansion import Cell, prompt_text
from obt_agent.benchmark.plan import Plan


class Prompt(NamedTuple):
    """A prompt as it is sent, and of how many synthetic words it is made (None for a given text)."""

    text: str
    words: int | None


def opened(cell: Cell, nonce: str | None, words: int) -> Prompt:
    """The cell's prompt, opened by a nonce; without one a given text stays as it is."""
    text = prompt_text(cell.prompt)
    if text is None:
        return Prompt(synthetic.text(nonce or synthetic.FIXED_OPENING, words), words)
    return Prompt(text if nonce is None else f"{nonce}\n\n{text}", None)


def options(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Ollama's options for a cell: everything that the plan says, and ``num_ctx`` always."""
    chosen: dict[str, Any] = {
        # Always: Ollama's default depends on the GPU's memory.
        "num_ctx": cell.num_ctx,
        "temperature": plan.temperature,
        "top_p": plan.top_p,
        "top_k": plan.top_k,
        "repeat_penalty": plan.repeat_penalty,
        "seed": plan.seed,
        "num_gpu": plan.num_gpu if plan.hardware.use_gpu else 0,
        "main_gpu": plan.hardware.gpu_id,
        "num_thread": plan.num_thread,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def generate(plan: Plan, cell: Cell, prompt: str) -> bytes:
    """The body of a measured ``/api/generate``."""
    # A template opens every prompt with the same words, which Ollama would keep cached.
    raw = cell.prompt.synthetic if plan.raw is None else plan.raw
    body: dict[str, Any] = {
        "model": plan.model_name,
        "prompt": prompt,
        "stream": True,
        "keep_alive": plan.keep_alive,
        "options": {**options(plan, cell), "num_predict": cell.prompt.completion_tokens},
    }
    if raw:
        body["raw"] = True
    if plan.think is not None:
        body["think"] = plan.think
    return msgspec.json.encode(body)


def load_options(plan: Plan, cell: Cell) -> bytes:
    """The options that decide how the model is loaded, for a request that only loads."""
    return msgspec.json.encode(options(plan, cell))
