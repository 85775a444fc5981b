"""What Ollama's own figures mean, by its version. Pure.

Read in Ollama's source: ``eval_duration`` has always started when the first token was there, which
``eval_count`` counts, so that eval_count / eval_duration reads high by n/(n-1); from 0.12.6 to 0.20.7 the
time spent sampling was subtracted as well. ``prompt_eval_count`` counts the whole prompt since 0.1.49, except
in 0.30.0, which counts what was not cached.
"""

from __future__ import annotations

import re
from typing import Final

from obt_agent.benchmark.environment import MetricSemantics

Version = tuple[int, int, int]

_NUMBERS: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
# First and last release of each kind, as read in Ollama's source.
_SAMPLING_SUBTRACTED: Final = ((0, 12, 6), (0, 20, 7))
_WHOLE_PROMPT_SINCE: Final = (0, 1, 49)
_LLAMA_SERVER_SINCE: Final = (0, 30, 0)
_UNCACHED_ONLY: Final = frozenset({(0, 30, 0)})

_STARTS_LATE: Final = (
    "eval_duration starts at the first token, which eval_count counts: "
    "tokens_per_second reads high by n/(n-1)"
)


def parse(version: str) -> Version | None:
    """Major, minor and patch; release candidates count as their release. None for a development build."""
    match = _NUMBERS.match(version.strip())
    if match is None:
        return None
    major, minor, patch = match.groups(default="0")
    numbers = int(major), int(minor), int(patch)
    return None if numbers == (0, 0, 0) else numbers


def semantics(version: str) -> MetricSemantics:
    """The meaning of Ollama's figures in that version."""
    numbers = parse(version)
    if numbers is None:
        return MetricSemantics(
            eval_duration="unknown",
            prompt_eval_count="unknown",
            note=f"the version {version!r} names no release; use the figures by the agent's own clock",
        )
    without_sampling = _SAMPLING_SUBTRACTED[0] <= numbers <= _SAMPLING_SUBTRACTED[1]
    whole = numbers >= _WHOLE_PROMPT_SINCE and numbers not in _UNCACHED_ONLY
    notes = [_STARTS_LATE]
    if without_sampling:
        notes.append("this version subtracts the time spent sampling, which makes it higher still")
    if not whole:
        notes.append("prompt_eval_count counts only what was not cached")
    return MetricSemantics(
        eval_duration="from_first_token_without_sampling" if without_sampling else "from_first_token",
        prompt_eval_count="whole_prompt" if whole else "uncached_part",
        note="; ".join(notes),
    )


def keeps_prompts(version: str) -> bool:
    """Whether this version's runner, llama-server, may keep finished prompts in the host's memory."""
    numbers = parse(version)
    return numbers is None or numbers >= _LLAMA_SERVER_SINCE


def version_class(version: str | None) -> tuple[str, str] | None:
    """What makes Ollama's figures of two versions comparable: equal classes mean equal meanings."""
    if version is None:
        return None
    meaning = semantics(version)
    return meaning.eval_duration, meaning.prompt_eval_count
