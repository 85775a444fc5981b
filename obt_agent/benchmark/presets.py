"""Plans with a name, so that a benchmark is one command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from obt_agent.benchmark.plan import Plan, PromptConfig


def shape(text: str) -> PromptConfig:
    """A synthetic prompt from ``PROMPT:COMPLETION`` in tokens, such as ``512:128``.

    Raises:
        ValueError: the text is not two positive integers with a colon between them.
    """
    first, colon, second = text.partition(":")
    if not (colon and first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise ValueError(f"a shape is PROMPT:COMPLETION in tokens, such as 512:128; found {text!r}")
    return PromptConfig(prompt_tokens=int(first), completion_tokens=int(second))


# The same tokens in every run: what is compared is speed, not what the model happens to write.
_GREEDY: Final[dict[str, Any]] = {"temperature": 0.0, "seed": 1}

# The fields that each preset sets; the rest are the plan's defaults.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    # For a first look: no wait for the machine to cool, and no load from nothing.
    "quick": {**_GREEDY, "prompts": (shape("512:128"),), "num_iterations": 3, "cooldown_s": 0.0},
    "standard": {
        **_GREEDY,
        "prompts": (shape("512:128"),),
        "num_iterations": 5,
        "max_iterations": 20,
        "cold_load": True,
    },
    # A short prompt shows decoding alone, a long one prefill.
    "thorough": {
        **_GREEDY,
        "prompts": (shape("16:1536"), shape("512:128"), shape("4096:256")),
        "num_iterations": 10,
        "max_iterations": 50,
        "target_ci": 0.05,
        "min_duration_s": 30.0,
        "cold_load": True,
    },
}


def preset(name: str, model_name: str, **changes: Any) -> Plan:
    """The plan of that name for a model, with some fields changed.

    Raises:
        KeyError: no preset has that name.
    """
    return Plan(**{**PRESETS[name], "model_name": model_name, **changes})
