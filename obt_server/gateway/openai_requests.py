"""OpenAI's requests as Ollama's, field by field as ``openai/openai.go`` of Ollama's does it. Pure.

Other than there, ``max_completion_tokens`` counts as ``max_tokens``, which newer clients leave out.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from obt_server.gateway.errors import GatewayRefused

_IMAGES: Final = ("data:;base64,", *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")))
_EFFORTS: Final[dict[str, bool | str]] = {
    "none": False,
    # OpenAI's scale reaches further than Ollama's at both ends.
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}
_BAD_MESSAGE: Final = "invalid message format"


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    # absent where null: a schema that is not there is no format
    schema: Any = None


class _Format(msgspec.Struct):
    type: str = ""
    json_schema: _JsonSchema | None = None


class _Effort(msgspec.Struct):
    effort: str | None = None


class _CalledFunction(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _OpenAiCall(msgspec.Struct):
    id: str = ""
    function: _CalledFunction = msgspec.field(default_factory=_CalledFunction)


class OpenAiMessage(msgspec.Struct):
    """A message of a chat; ``content`` is a text, or a list of parts."""

    role: str = ""
    content: Any = None
    reasoning: str | None = None
    tool_calls: list[_OpenAiCall] | None = None
    name: str | None = None
    tool_call_id: str | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """What both kinds of requests say of sampling."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage is True


class ChatCompletionRequest(_Sampling, kw_only=True):
    """``POST /v1/chat/completions``; what is not listed is ignored, as by Ollama."""

    messages: list[OpenAiMessage] = []
    max_completion_tokens: int | None = None
    response_format: _Format | None = None
    tools: list[msgspec.Raw] | None = None
    reasoning: _Effort | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionRequest(_Sampling, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str = ""
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct):
    """``POST /v1/embeddings``."""

    model: str | None = None
    input: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None


def chat_params(asked: ChatCompletionRequest) -> dict[str, Any]:
    """Return Ollama's ``chat``.

    Raises:
        GatewayRefused: 400, in the words of Ollama's own refusal.
    """
    if not asked.messages:
        raise GatewayRefused(400, "[] is too short - 'messages'")
    options = _options(
        asked, asked.max_tokens if asked.max_tokens is not None else asked.max_completion_tokens
    )
    # Left out there, and so Ollama's own default, where a chat does not name them.
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(asked, name) is not None:
            options[name] = getattr(asked, name)
    params: dict[str, Any] = {
        "model": asked.model,
        "messages": [made for message in asked.messages for made in _messages(message, asked.messages)],
        "options": options,
    }
    wanted = _format(asked.response_format)
    if wanted is not None:
        params["format"] = wanted
    think = _think(asked)
    if think is not None:
        params["think"] = think
    if asked.tools:
        params["tools"] = asked.tools
    # Without it the number alone would ask for nothing.
    if asked.logprobs:
        params["logprobs"] = True
        params["top_logprobs"] = asked.top_logprobs or 0
    return params


def completion_params(asked: CompletionRequest) -> dict[str, Any]:
    """Return Ollama's ``generate``."""
    options = _options(asked, asked.max_tokens)
    # Always there on this route, as in Ollama's own layer.
    options["frequency_penalty"] = asked.frequency_penalty or 0.0
    options["presence_penalty"] = asked.presence_penalty or 0.0
    params: dict[str, Any] = {"model": asked.model, "prompt": asked.prompt, "options": options}
    return params | ({"suffix": asked.suffix} if asked.suffix else {})


def embed_params(asked: EmbeddingRequest) -> dict[str, Any]:
    """Return Ollama's ``embed``.

    Raises:
        GatewayRefused: 400.
    """
    # Checked before the model works for nothing.
    wanted = asked.encoding_format or ""
    if wanted and wanted.lower() not in ("float", "base64"):
        raise GatewayRefused(
            400,
            f"Invalid value for 'encoding_format' = {wanted[:40]}. Supported values: ['float', 'base64'].",
        )
    if asked.input is None or asked.input == []:
        raise GatewayRefused(400, "invalid input")
    params: dict[str, Any] = {"model": asked.model, "input": [""] if asked.input == "" else asked.input}
    return params | ({"dimensions": asked.dimensions} if asked.dimensions else {})


def _options(asked: _Sampling, most_tokens: int | None) -> dict[str, Any]:
    # 1.0 where nothing is said: OpenAI's default, and not Ollama's.
    options: dict[str, Any] = {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
    }
    # Ollama takes a list alone.
    if asked.stop is not None:
        options["stop"] = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    if most_tokens is not None:
        options["num_predict"] = most_tokens
    if asked.seed is not None:
        options["seed"] = asked.seed
    return options


def _format(asked: _Format | None) -> Any:
    kind = "" if asked is None else asked.type.strip().lower()
    if kind == "json_object":
        return "json"
    return asked.json_schema.schema if kind == "json_schema" and asked and asked.json_schema else None


def _think(asked: ChatCompletionRequest) -> bool | str | None:
    effort = asked.reasoning.effort if asked.reasoning is not None else asked.reasoning_effort
    if not effort:
        return None
    if effort not in _EFFORTS:
        words = ", ".join(f'"{one}"' for one in _EFFORTS)
        raise GatewayRefused(400, f"invalid reasoning value: {effort[:40]!r} (must be one of {words})")
    return _EFFORTS[effort]


def _messages(message: OpenAiMessage, all_of_them: list[OpenAiMessage]) -> list[dict[str, Any]]:
    """Ollama's messages of one of OpenAI's: each part of its content is one."""
    calls = [_tool_call(call) for call in message.tool_calls or ()]
    more = {
        "thinking": message.reasoning,
        "tool_calls": calls,
        "tool_name": _tool_name(message, all_of_them),
        "tool_call_id": message.tool_call_id,
    }
    more = {name: value for name, value in more.items() if value}
    match message.content:
        case str(text):
            return [{"role": message.role, "content": text} | more]
        # One message a part, as Ollama's own layer makes them: templates join what one role says.
        case list(parts):
            made: list[dict[str, Any]] = [{"role": message.role} | _part(part) for part in parts]
            if made and calls:
                made[-1] |= more
            return made
        # Nothing is said where tools are called.
        case None if message.tool_calls is not None:
            return [{"role": message.role, "content": ""} | more]
        case _:
            raise GatewayRefused(400, f"invalid message content type: {type(message.content).__name__}")


def _part(part: Any) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"content": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"content": "", "images": [_image(url)]}
        case {"type": "input_audio", "input_audio": {"data": str(data)}}:
            return {"content": "", "images": [_base64(data, "invalid input_audio base64 data")]}
        case _:
            raise GatewayRefused(400, _BAD_MESSAGE)


def _image(url: str) -> str:
    """The base64 of a data URL. An address is never fetched: a client must not make this server dial."""
    if url.startswith(("http://", "https://")):
        raise GatewayRefused(
            400, "image URLs are not currently supported, please use base64 encoded data instead"
        )
    prefix = next((one for one in _IMAGES if url.startswith(one)), None)
    if prefix is None:
        raise GatewayRefused(400, "invalid image input")
    return _base64(url[len(prefix) :], "invalid image input")


def _base64(text: str, problem: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise GatewayRefused(400, problem) from error
    return text


def _tool_call(call: _OpenAiCall) -> dict[str, Any]:
    try:
        # A text in OpenAI's form, an object in Ollama's.
        arguments = msgspec.json.decode(call.function.arguments, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GatewayRefused(400, "invalid tool call arguments") from error
    return {"id": call.id, "function": {"name": call.function.name, "arguments": arguments}}


def _tool_name(message: OpenAiMessage, all_of_them: list[OpenAiMessage]) -> str:
    """Of a tool's answer, the name of the tool: OpenAI names the call, Ollama the tool."""
    if message.role.lower() != "tool":
        return ""
    if message.name or not message.tool_call_id:
        return message.name or ""
    # The last of several calls with one id, as Ollama looks for it.
    for earlier in reversed(all_of_them):
        for call in earlier.tool_calls or ():
            if call.id == message.tool_call_id:
                return call.function.name
    return ""
