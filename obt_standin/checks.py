"""What a model can, and what fits: refusals that depend on the model. Pure."""

from __future__ import annotations

from obt_standin.generation import encode
from obt_standin.names import qualified
from obt_standin.request_body import ErrorAnswer, Json
from obt_standin.script import Model

_NO_VISION = "Multimodal data provided, but model does not support multimodal requests."
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


def fitted(fields: Json, count: int, num_ctx: int) -> int:
    """The prompt's length in the context: half of it and a little when it had to be cut."""
    if count <= num_ctx:
        return count
    if fields.get("shift") is False:
        raise ErrorAnswer(400, _TOO_LONG)
    if fields.get("truncate") is False:
        text = (
            f"request ({count} tokens) exceeds the available context size ({num_ctx} tokens), "
            "try increasing it"
        )
        figures = {"n_prompt_tokens": count, "n_ctx": num_ctx}
        message = _runner_error(400, text, "exceed_context_size_error", **figures)
        raise ErrorAnswer(400, message, charset=fields.get("stream") is False)
    # As recorded of Ollama: half of the context is dropped, and its first tokens are kept.
    return num_ctx // 2 + 3


def _runner_error(code: int, message: str, kind: str, **figures: int) -> str:
    # As llama-server prints it and Ollama passes it on: JSON in the string.
    return encode({"error": {"code": code, "message": message, "type": kind} | figures}).decode()


def check_capabilities(fields: Json, model: Model, *, thinking: bool, chat: bool) -> None:
    """Let a request pass that its model can serve; raises ``ErrorAnswer`` in Ollama's words."""
    # In the order in which Ollama checks them: a request with two faults gets the first one's words.
    name = fields["model"]
    if not chat and fields.get("raw") and any(fields.get(key) for key in ("system", "template", "context")):
        raise ErrorAnswer(400, "raw mode does not support template, system, or context")
    if "completion" not in model.capabilities:
        raise ErrorAnswer(400, f'"{name}" does not support {"chat" if chat else "generate"}')
    if fields.get("suffix") and "insert" not in model.capabilities:
        raise ErrorAnswer(400, f"{qualified(model.name)} does not support insert")
    if fields.get("tools") and "tools" not in model.capabilities:
        raise ErrorAnswer(400, f"{qualified(model.name)} does not support tools")
    if thinking and "thinking" not in model.capabilities:
        raise ErrorAnswer(400, f'"{name}" does not support thinking')


def no_vision() -> ErrorAnswer:
    """The refusal of images by a model that cannot see."""
    return ErrorAnswer(400, _runner_error(400, _NO_VISION, "invalid_request_error"))
