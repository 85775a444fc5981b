"""The tokens: of prompts, counted, and of answers, made up. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from obt_standin.script import Behaviour

_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]|\s+")
# What a person sees of an answer: it must not pass for a model's.
_WORDS = tuple(
    re.findall(
        r"\s?[^\s]+",
        "These words come from a stand-in for Ollama. No model ran, nothing was computed: "
        "only the times are kept.",
    )
)
# Equal tokens after which Ollama ends a stream by itself (llm/server.go).
_MOST_REPEATED = 30


def tokens_of(text: str) -> list[str]:
    """A prompt's tokens, up to six letters each: about what a real tokenizer counts."""
    return _TOKEN.findall(text)


def endless(behaviour: Behaviour) -> Iterator[str]:
    """The tokens that a model without an end in sight sends."""
    if behaviour.numbered:
        return (f" {number}" for number in itertools.count())
    if behaviour.ending == "repeat":
        return itertools.repeat(" the")
    if behaviour.text:
        return itertools.cycle(behaviour.text)
    return itertools.chain(_WORDS, itertools.cycle((f" {_WORDS[0]}", *_WORDS[1:])))


def fitting(format_: object, behaviour: Behaviour) -> list[str] | None:
    """Tokens of a JSON text that fits ``format``; None when the format is free."""
    if format_ in (None, ""):
        return None
    if isinstance(format_, dict):
        return re.findall(r".{1,4}", json.dumps(_instance(format_)), re.DOTALL)
    return ["{", '"stand_in":"', *itertools.islice(endless(behaviour), behaviour.tokens), '"', "}"]


def before_repetition(tokens: Iterable[str]) -> tuple[list[str], bool]:
    """What Ollama lets pass before more than 30 equal tokens (white space left out); whether it ended so."""
    passed: list[str] = []
    last, repeated = "", 0
    for token in tokens:
        bare = token.strip()
        repeated = repeated + 1 if bare == last else 0
        last = bare
        if repeated > _MOST_REPEATED:
            return passed, True
        passed.append(token)
    return passed, False


def before_stop(tokens: Iterable[str], stops: list[str]) -> tuple[list[str], bool]:
    """What comes before the first stop sequence; whether there was one."""
    if not stops:
        return list(tokens), False
    passed: list[str] = []
    # A stop sequence may begin in one token and end in another.
    text = ""
    for token in tokens:
        text += token
        if any(stop in text for stop in stops):
            return passed, True
        passed.append(token)
    return passed, False


_INSTANCES = {"integer": 1, "number": 1, "boolean": True, "null": None}


def _instance(schema: dict[str, Any]) -> object:
    """The smallest value that fits a plain schema."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: _instance(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_instance(schema.get("items", {}))]
    return _INSTANCES.get(str(kind), "stand-in")
