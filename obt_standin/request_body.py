"""A request's body, read and refused as Ollama reads and refuses it. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

Json = dict[str, Any]

_DURATION = re.compile(r"[+-]?(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NAMES = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_TEXTS = ("model", "prompt", "suffix", "system", "template")
_GENERATE: dict[str, type] = {**dict.fromkeys(_TEXTS, str), "raw": bool, "stream": bool}
# By Go's name of the request: what each field must be. Fields that are not named here may be anything.
_TYPES: dict[str, dict[str, type]] = {
    "GenerateRequest": _GENERATE | {"images": list, "context": list, "options": dict},
    "ChatRequest": {"model": str, "messages": list, "tools": list, "stream": bool, "options": dict},
    "EmbedRequest": {"model": str, "options": dict, "dimensions": int},
    "ShowRequest": {"model": str, "name": str, "verbose": bool},
    "CopyRequest": {"source": str, "destination": str},
    "DeleteRequest": {"model": str, "name": str},
    "PullRequest": {"model": str, "name": str, "stream": bool, "insecure": bool},
    "CreateRequest": {"model": str, "from": str, "stream": bool, "files": dict, "parameters": dict},
    "Request": {},
}
# As Go's errors name the wanted type: some fields have a type of their own.
_GO_TYPES = {"messages": "[]api.Message", "options": "map[string]interface {}", "tools": "api.Tools"}
_GO_NAMES = {str: "string", bool: "bool", int: "int", list: "[]string", dict: "map[string]string"}
# Options of Ollama's api/types.go, by their type there.
_WHOLE_OPTIONS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed"),
    *("num_predict", "top_k", "repeat_last_n", "draft_num_predict"),
)
_REAL_OPTIONS = (
    *("top_p", "min_p", "typical_p", "temperature"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
_OPTIONS: dict[str, type] = {**dict.fromkeys(_WHOLE_OPTIONS, int), **dict.fromkeys(_REAL_OPTIONS, float)}
_THINK = ("high", "medium", "low", "max")


class ErrorAnswer(Exception):
    """An answer that is an error.

    Args:
        status: HTTP's status.
        message: what stands in ``{"error": …}``.
        charset: whether the content type names one, as Ollama's does except where a stream was asked for and
            the error comes from the runner.
    """

    def __init__(self, status: int, message: str, *, charset: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.charset = charset


def read(body: bytes, kind: str) -> Json:
    """The fields of a request; ``kind`` is the name of Go's type.

    Raises:
        ErrorAnswer: it is missing, no JSON, or a field has the wrong type.
    """
    if not body:
        raise ErrorAnswer(400, "missing request body")
    fields = _parse(body)
    if not isinstance(fields, dict):
        raise ErrorAnswer(
            400, f"json: cannot unmarshal {_NAMES[type(fields)]} into Go value of type api.{kind}"
        )
    for name, wanted in _TYPES[kind].items():
        _check_type(kind, name, fields.get(name), wanted)
    return fields


def keep_alive(value: object, default_s: float) -> float | None:
    """Seconds to keep a model after use; None is for ever.

    Raises:
        ErrorAnswer: it is no duration.
    """
    match value:
        case None:
            return default_s
        case bool():
            raise ErrorAnswer(400, f"time: invalid duration {json.dumps(value)}")
        case int() | float():
            # Any negative number keeps the model for ever.
            return None if value < 0 else float(value)
        case str() if _DURATION.fullmatch(value):
            seconds = sum(float(n) * _UNITS[u] for n, u in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", value))
            return None if value.startswith("-") else seconds
        case _:
            raise ErrorAnswer(400, f"time: invalid duration {json.dumps(value)}")


def think(value: object) -> bool | None:
    """Whether thinking is asked for; None when the request says nothing.

    Raises:
        ErrorAnswer: it is no way of thinking.
    """
    if value is None or isinstance(value, bool):
        return value
    if value in _THINK:
        return True
    shown = json.dumps(value)
    levels = ", ".join(f'"{level}"' for level in _THINK)
    raise ErrorAnswer(400, f"invalid think value: {shown} (must be {levels}, true, or false)")


def check_options(options: Json | None) -> Json:
    """The options as they are; unknown ones are left alone, as Ollama does.

    Raises:
        ErrorAnswer: a known one has the wrong type.
    """
    for name, value in (options or {}).items():
        wanted = _OPTIONS.get(name)
        if wanted is None or value is None:
            continue
        # True is an int in Python, and no number in Go.
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            shown = "integer" if wanted is int else "float32"
            raise ErrorAnswer(500, f'option "{name}" must be of type {shown}')
    return options or {}


def check_images(images: object) -> int:
    """How many images came.

    Raises:
        ErrorAnswer: one of them is not base64.
    """
    if not isinstance(images, list):
        return 0
    for image in images:
        try:
            base64.b64decode(str(image), validate=True)
        except (binascii.Error, ValueError) as error:
            position = next((n for n, c in enumerate(str(image)) if not re.match(r"[\w+/=]", c)), 0)
            raise ErrorAnswer(400, f"illegal base64 data at input byte {position}") from error
    return len(images)


def check_format(value: object, *, streamed: bool) -> None:
    """Let ``json`` and schemas pass.

    Raises:
        ErrorAnswer: it is neither.
    """
    if value in (None, "", "json") or isinstance(value, dict):
        return
    shown = json.dumps(json.dumps(value))
    message = f'invalid format: {shown}; expected "json" or a valid JSON Schema object'
    raise ErrorAnswer(500, message, charset=not streamed)


def _parse(body: bytes) -> object:
    # Go's decoder replaces what is no UTF-8, too.
    text = body.decode(errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ErrorAnswer(400, _go_error(text, error.pos)) from error
    except RecursionError as error:
        raise ErrorAnswer(400, "exceeded max depth") from error


def _go_error(text: str, position: int) -> str:
    if position >= len(text.rstrip()):
        return "unexpected EOF"
    found = text[position]
    where = "looking for beginning of value" if position == 0 else "after top-level value"
    return f"invalid character '{found}' {where}"


def _check_type(kind: str, name: str, value: object, wanted: type) -> None:
    if value is None or isinstance(value, wanted):
        return
    go_type = _GO_TYPES.get(name) or _GO_NAMES[wanted]
    found = _NAMES.get(type(value), "value")
    raise ErrorAnswer(
        400, f"json: cannot unmarshal {found} into Go struct field {kind}.{name} of type {go_type}"
    )
