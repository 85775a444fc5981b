"""Ollama's answers as OpenAI's, as Ollama's own ``openai/openai.go`` and ``middleware/openai.go``."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from obt_agent.errors import InvalidParams
from obt_agent.ollama.names import DEFAULT_NAMESPACE, canonical
from obt_agent.ollama.payloads import InstalledModel

DONE: Final = b"data: [DONE]\n\n"
_FINGERPRINT: Final = "fp_ollama"
_Json = dict[str, Any]


class _Function(msgspec.Struct):
    name: str = ""
    index: int = 0
    arguments: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class _ToolCall(msgspec.Struct):
    id: str = ""
    function: _Function = msgspec.field(default_factory=_Function)


class _Said(msgspec.Struct):
    role: str = "assistant"
    content: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] = []


class OllamaAnswer(msgspec.Struct):
    """What is read of an object of ``chat`` or ``generate``."""

    model: str = ""
    created_at: str = ""
    response: str = ""
    message: _Said = msgspec.field(default_factory=_Said)
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    logprobs: list[msgspec.Raw] | None = None


def unix(rfc3339: str) -> int | None:
    """Return a time in Unix seconds; None where it is none."""
    try:
        return int(datetime.fromisoformat(rfc3339).timestamp())
    except (ValueError, OverflowError):
        return None


def usage(answer: OllamaAnswer) -> _Json:
    """Return the counts of tokens."""
    return {
        "prompt_tokens": answer.prompt_eval_count,
        "completion_tokens": answer.eval_count,
        "total_tokens": answer.prompt_eval_count + answer.eval_count,
    }


def _tool_calls(calls: Iterable[_ToolCall]) -> list[_Json]:
    return [
        {
            # Older Ollamas give none, and the next turn names the call by it.
            "id": call.id or f"call_{secrets.token_hex(4)}",
            "index": call.function.index,
            "type": "function",
            # A text in OpenAI's form; Ollama's is the object itself.
            "function": {"name": call.function.name, "arguments": bytes(call.function.arguments).decode()},
        }
        for call in calls
    ]


class _OpenAiObjects:
    """What all objects of one answer share.

    Args:
        kind: ``object`` of each.
        prefix: of its id.
    """

    def __init__(self, kind: str, prefix: str) -> None:
        self._kind = kind
        self._id = f"{prefix}-{secrets.token_hex(12)}"
        # of the first object: OpenAI stamps one time on all of a stream
        self._created: int | None = None

    def _object(self, answer: OllamaAnswer, choices: list[_Json], **more: Any) -> _Json:
        if self._created is None:
            # An object without a time has the present one.
            self._created = unix(answer.created_at) or int(time.time())
        head = {"id": self._id, "object": self._kind, "created": self._created, "model": answer.model}
        return head | {"system_fingerprint": _FINGERPRINT, "choices": choices} | more


class ChatCompletion(_OpenAiObjects):
    """``chat`` as ``chat.completion``."""

    def __init__(self) -> None:
        super().__init__("chat.completion", "chatcmpl")

    def whole(self, answer: OllamaAnswer) -> _Json:
        """Return the answer of a request without a stream."""
        said = answer.message
        message: _Json = {"role": said.role, "content": said.content}
        if said.thinking:
            message["reasoning"] = said.thinking
        if said.tool_calls:
            message["tool_calls"] = _tool_calls(said.tool_calls)
        reason = _reason(answer, called=bool(said.tool_calls))
        choice = {"index": 0, "message": message, "finish_reason": reason or None}
        return self._object(answer, [choice | _logprobs(answer)], usage=usage(answer))


class ChatCompletionStream(_OpenAiObjects):
    """``chat`` as events of ``chat.completion.chunk``.

    Args:
        include_usage: whether the counts come in an event of their own before the end.
    """

    def __init__(self, *, include_usage: bool) -> None:
        super().__init__("chat.completion.chunk", "chatcmpl")
        self._include_usage = include_usage
        self._begun = False
        self._called = False

    def events(self, answer: OllamaAnswer) -> bytes:
        """Return the events of one of Ollama's objects, with the end of the stream where it is the last."""
        events = [] if self._is_trailer(answer) else self._chunks(answer)
        self._called = self._called or bool(answer.message.tool_calls)
        if not answer.done:
            return b"".join(map(event, events))
        reason = _reason(answer, called=self._called) or "stop"
        # A chunk of its own, with nothing else in it, as OpenAI ends.
        events.append(self._object(answer, [_delta({}, reason)]))
        if self._include_usage:
            events.append(self._object(answer, [], usage=usage(answer)))
        return b"".join(map(event, events)) + DONE

    def _is_trailer(self, answer: OllamaAnswer) -> bool:
        """Whether an object brings counts and nothing else: OpenAI has no chunk for it."""
        said = answer.message
        brings = said.content or said.thinking or said.tool_calls or answer.logprobs
        return answer.done and self._begun and not brings

    def _chunks(self, answer: OllamaAnswer) -> list[_Json]:
        said = answer.message
        # Once in a stream: clients begin a message with each role.
        first: _Json = {} if self._begun else {"role": "assistant"}
        self._begun = True
        rest: _Json = {"content": said.content}
        if said.tool_calls:
            rest["tool_calls"] = _tool_calls(said.tool_calls)
        if not said.thinking:
            return [self._object(answer, [_delta(first | rest) | _logprobs(answer)])]
        reasoning = first | {"reasoning": said.thinking}
        # Thought and said at once: two chunks, so that no client takes one for the other.
        if said.content or said.tool_calls:
            thought = self._object(answer, [_delta(reasoning) | _logprobs(answer)])
            return [thought, self._object(answer, [_delta(rest)])]
        return [self._object(answer, [_delta(reasoning | {"content": ""}) | _logprobs(answer)])]


class Completion(_OpenAiObjects):
    """``generate`` as ``text_completion``, whole or as events.

    Args:
        include_usage: whether a stream's counts come in an event of their own before the end.
    """

    def __init__(self, *, include_usage: bool = False) -> None:
        super().__init__("text_completion", "cmpl")
        self._include_usage = include_usage

    def whole(self, answer: OllamaAnswer) -> _Json:
        """Return the answer of a request without a stream."""
        return self._object(answer, [self._choice(answer)], usage=usage(answer))

    def events(self, answer: OllamaAnswer) -> bytes:
        """Return the events of one of Ollama's objects, with the end of the stream where it is the last."""
        # Zeros until the end, as Ollama sends them on this route and not for chats.
        more = {"usage": _NO_USAGE} if self._include_usage else {}
        events = [self._object(answer, [self._choice(answer)], **more)]
        if not answer.done:
            return b"".join(map(event, events))
        if self._include_usage:
            events.append(self._object(answer, [], usage=usage(answer)))
        return b"".join(map(event, events)) + DONE

    def _choice(self, answer: OllamaAnswer) -> _Json:
        return {"text": answer.response, "index": 0, "finish_reason": answer.done_reason or None}


_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def event(data: _Json) -> bytes:
    """Return an event without a name, as OpenAI's streams have them."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def _delta(delta: _Json, reason: str | None = None) -> _Json:
    return {"index": 0, "delta": delta, "finish_reason": reason}


def _logprobs(answer: OllamaAnswer) -> _Json:
    return {"logprobs": {"content": answer.logprobs}} if answer.logprobs else {}


def _reason(answer: OllamaAnswer, *, called: bool) -> str:
    # Only "stop" is named anew: an answer that was cut off has called nothing to the end.
    return "tool_calls" if answer.done_reason == "stop" and called else answer.done_reason


def models(installed: Iterable[InstalledModel]) -> _Json:
    """Return the answer of ``/v1/models``."""
    return {"object": "list", "data": [model(one) for one in installed]}


def model(installed: InstalledModel) -> _Json:
    """Return one model."""
    created = unix(installed.modified_at or "") or 0
    owner = _namespace(installed.name)
    return {"id": installed.name, "object": "model", "created": created, "owned_by": owner}


def _namespace(name: str) -> str:
    try:
        return canonical(name).namespace
    except InvalidParams:
        return DEFAULT_NAMESPACE


def embeddings(name: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool) -> _Json:
    """Return the answer of ``/v1/embeddings``; base64 is of little-endian floats of 32 bits."""
    data = [
        {"object": "embedding", "embedding": _packed(vector) if as_base64 else vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": counts}


def _packed(vector: Sequence[float]) -> bytes:
    # msgspec writes bytes as base64.
    return struct.pack(f"<{len(vector)}f", *vector)
