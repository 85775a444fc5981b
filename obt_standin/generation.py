"""One generation: its tokens, when each token is due, and the lines that carry it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from obt_standin.clock import rfc3339
from obt_standin.request_body import Json
from obt_standin.script import Behaviour, Model
from obt_standin.text import before_repetition, before_stop, endless, fitting

# What the template of the recorded model added to each prompt.
_TEMPLATE_TOKENS = 11


@dataclass
class GenerationPlan:
    """The content of one generation.

    ``tokens`` are the answer's, the first ``thoughts`` of them thoughts. ``reason`` is the ``done_reason``;
    None when the stream ends with no final line. ``counted`` is ``eval_count``: a proper stop counts its EOS.
    """

    tokens: list[str]
    thoughts: int
    reason: str | None
    tool_call: Json | None = None

    @property
    def counted(self) -> int:
        """Ollama's ``eval_count``."""
        return len(self.tokens) + (self.reason == "stop")


def plan(
    model: Model, behaviour: Behaviour, request: Json, *, thinking: bool, template_path: bool
) -> GenerationPlan:
    """Return the content: the scripted text, cut by num_predict, stop sequences and endless repetition."""
    options = request.get("options") or {}
    # 0 and negative numbers are no limit, as with Ollama.
    limit = int(options.get("num_predict") or model.num_predict or 0)
    if behaviour.tool_call and request.get("tools"):
        return _tool_plan(request["tools"][0], behaviour)
    formed = fitting(request.get("format"), behaviour)
    natural = formed if formed is not None else list(itertools.islice(endless(behaviour), behaviour.tokens))
    reason = "stop"
    if 0 < limit <= len(natural):
        natural, reason = natural[:limit], "length"
    natural, stopped = before_stop(natural, list(options.get("stop") or ()))
    thoughts = min(behaviour.thinking_tokens, len(natural)) if thinking else 0
    # Ollama watches for repetition where it renders the prompt itself.
    if template_path and not behaviour.fast:
        natural, repeated = before_repetition(natural)
        if repeated:
            return GenerationPlan(natural, thoughts, None)
    return GenerationPlan(natural, thoughts, "stop" if stopped else reason)


def _tool_plan(tool: Json, behaviour: Behaviour) -> GenerationPlan:
    function = tool.get("function", {})
    schema = function.get("parameters", {})
    arguments = msgspec.json.decode("".join(fitting(schema, behaviour) or ()).encode())
    call = {
        "id": "call_standin",
        "function": {"index": 0, "name": function.get("name"), "arguments": arguments},
    }
    return GenerationPlan([], 0, "stop", tool_call=call)


class Schedule:
    """When each token is due, in ``time.monotonic_ns``; without a rate a token is due when it is asked for.

    Token ``i`` of a rate ``r`` is due ``i / r`` after the first, plus the stalls before it, plus its jitter.
    """

    def __init__(self, behaviour: Behaviour, first_ns: int, seed: int) -> None:
        self._behaviour = behaviour
        # When token 0 is due: after the queue, the load and the prompt.
        self._first_ns = first_ns
        # Seeded, so that a test sees the same jitter each time.
        self._random = random.Random(seed)  # noqa: S311 - jitter protects nothing

    def due(self, index: int) -> int:
        """The moment for the token with this index; asked for in order."""
        behaviour = self._behaviour
        stalled = sum(stall.seconds for stall in behaviour.stalls if stall.before_token <= index)
        if behaviour.decode_tps is None:
            return max(time.monotonic_ns(), self._first_ns) + int(stalled * 1e9) * self._is_stall(index)
        late = self._random.uniform(0, behaviour.jitter) if behaviour.jitter and index else 0.0
        return self._first_ns + int(((index + late) / behaviour.decode_tps + stalled) * 1e9)

    def _is_stall(self, index: int) -> bool:
        return any(stall.before_token == index for stall in self._behaviour.stalls)


@dataclass
class Figures:
    """The last line's measurements, in nanoseconds; ``total`` counts from the request."""

    began_ns: int
    load_ns: int = 0
    prompt_count: int = 0
    prompt_ns: int = 0
    token_ns: list[int] = field(default_factory=list)

    def of(self, count: int) -> Json:
        """The fields, as Ollama orders them; one token alone counts as 1 µs."""
        # From the first token to the last, as Ollama counts its eval_duration.
        spent = self.token_ns[-1] - self.token_ns[0] if self.token_ns else 0
        return {
            "total_duration": time.monotonic_ns() - self.began_ns,
            "load_duration": max(self.load_ns, 1000),
            "prompt_eval_count": self.prompt_count,
            # Without a rate nothing waits; what is reported stays within what a machine could do.
            "prompt_eval_duration": max(self.prompt_ns // 1000, 10, self.prompt_count // 10) * 1000,
            "eval_count": count,
            "eval_duration": max(spent, 1000),
        }


class AnswerLines:
    """The lines of one answer. ``chat`` chooses between ``message`` and ``response``."""

    def __init__(self, model_name: str, request: Json, *, chat: bool) -> None:
        # As the request wrote it: Ollama repeats that, and not the name of its list.
        self._name = model_name
        self._chat = chat
        # Any numbers will do: a client only sends them back.
        self._context = None if chat or request.get("raw") else list(request.get("context") or (1, 2, 3))
        self._logprobs = request.get("top_logprobs", 0) if request.get("logprobs") else None

    def token(self, text: str, *, thought: bool = False) -> bytes:
        """A line in the middle."""
        fields = self._fields(text, thought=thought) | {"done": False}
        if self._logprobs is not None:
            fields["logprobs"] = [_logprob(text, self._logprobs)]
        return line(fields)

    def tool_call(self, call: Json) -> bytes:
        """The line that calls a tool."""
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        return line(self._head() | {"message": message, "done": False})

    def final(self, reason: str, figures: Json) -> bytes:
        """The last line."""
        return line(self._end(self._fields(""), reason, figures))

    def whole(self, content: GenerationPlan, figures: Json | None) -> bytes:
        """The one object of an answer that is not streamed; without figures it is one that was broken off."""
        fields = self._fields("".join(content.tokens[content.thoughts :]))
        if content.thoughts:
            self._add_thoughts(fields, "".join(content.tokens[: content.thoughts]))
        if content.tool_call is not None:
            fields["message"]["tool_calls"] = [content.tool_call]
        if figures is None or content.reason is None:
            return encode(fields | {"done": False})
        return encode(self._end(fields, content.reason, figures))

    def empty(self, reason: str) -> bytes:
        """The answer to a request that only loads or unloads."""
        return encode(self._fields("") | {"done": True, "done_reason": reason})

    def debug(self, rendered: str) -> bytes:
        """The answer to a request that only wants to see its prompt."""
        return encode(self._fields("") | {"done": False, "_debug_info": {"rendered_template": rendered}})

    def _head(self) -> Json:
        return {"model": self._name, "created_at": rfc3339()}

    def _fields(self, text: str, *, thought: bool = False) -> Json:
        fields = self._head()
        answer = "" if thought else text
        fields |= (
            {"message": {"role": "assistant", "content": answer}} if self._chat else {"response": answer}
        )
        if thought:
            self._add_thoughts(fields, text)
        return fields

    def _add_thoughts(self, fields: Json, text: str) -> None:
        (fields["message"] if self._chat else fields)["thinking"] = text

    def _end(self, fields: Json, reason: str, figures: Json) -> Json:
        fields |= {"done": True, "done_reason": reason}
        if self._context is not None:
            fields["context"] = self._context
        return fields | figures


def blocks(lines: AnswerLines, content: GenerationPlan, size: int) -> Iterator[bytes]:
    """Framed chunks of many lines each, for the fast way."""
    # Texts repeat, so that each line is made and framed once; the fast way is there to load a client.
    made: dict[str, bytes] = {}
    framed: list[bytes] = []
    for token in content.tokens:
        if token not in made:
            one = lines.token(token)
            made[token] = b"%x\r\n%b\r\n" % (len(one), one)
        framed.append(made[token])
        if len(framed) == size:
            yield b"".join(framed)
            framed.clear()
    if framed:
        yield b"".join(framed)


def prompt_overhead(request: Json) -> int:
    """Tokens that the template adds to the prompt."""
    return 0 if request.get("raw") else _TEMPLATE_TOKENS


def line(fields: Json) -> bytes:
    """One line of NDJSON."""
    return encode(fields) + b"\n"


def encode(value: Any) -> bytes:
    """JSON as Go prints it: compact, with ``<``, ``>`` and ``&`` escaped."""
    # Safe on the whole text: in JSON these characters stand inside strings only.
    text = msgspec.json.encode(value)
    return text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _logprob(text: str, top: int) -> Json:
    entry = {"token": text, "logprob": -1.5, "bytes": list(text.encode())}
    return entry | {"top_logprobs": [dict(entry) for _ in range(top)]} if top else entry
