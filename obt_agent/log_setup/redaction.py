"""What nobody may read in a log: secrets always, prompts and answers unless switched on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
# Bounds of one event: what a peer sends must not decide how much is written.
_MAX_DEPTH: Final = 6
_MAX_ITEMS: Final = 50
_MAX_CHARS: Final = 16 << 10
# What steers a terminal or turns the order of a line (a peer may have written it), and what UTF-8 lacks.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# By the last word of a key, so that ``token_file`` and ``tokens`` stay readable.
_SECRET_KEY: Final = re.compile(
    r"(?i)(?:^|_)(?:token|secret|password|passwd|authorization|cookie|credential|api_?key)$"
)
# What people write to models and get back; their own data, whatever the level of the log.
_CONTENT_KEYS: Final = frozenset(
    (
        *("prompt", "prompts", "messages", "content", "system", "suffix", "template", "input", "images"),
        *("response", "answer", "thinking", "chunk", "line", "params", "frame"),
    )
)
# In texts of every kind, such as errors that quote a header or an address.
_SECRETS: Final = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), rf"\1 {MASK}"),
    (re.compile(r"\bobt[a-z]*_[A-Za-z0-9_-]{20,}"), MASK),
    (re.compile(r"://[^/\s@\"']+@"), f"://{MASK}@"),
    (
        re.compile(r"(?i)(token|secret|password|api[_-]?key)(\"?\s*[=:]\s*\"?)[^\s&\"',;}\])]+"),
        rf"\1\2{MASK}",
    ),
)


def masked_text(text: str) -> str:
    """The text without bearer tokens, credentials of ours, user information of URLs and ``token=…``."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def masked(event: Mapping[str, Any], *, prompts: bool = False) -> dict[str, Any]:
    """The event with every value made safe and of bounded size; unknown objects become their masked repr."""
    return {key: _value(key, value, prompts=prompts, depth=0) for key, value in event.items()}


def _value(key: str, value: Any, *, prompts: bool, depth: int) -> Any:
    if _SECRET_KEY.search(key) and value is not None and not isinstance(value, bool):
        return MASK
    # How much there was may help, and says nothing.
    if not prompts and key in _CONTENT_KEYS and not isinstance(value, (bool, int, float, type(None))):
        return (
            f"({len(value)} not logged)" if isinstance(value, (str, bytes, list, tuple)) else "(not logged)"
        )
    return _plain(value, prompts=prompts, depth=depth)


def _plain(value: Any, *, prompts: bool, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return masked_text(_short(str(value)))
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:_MAX_ITEMS]
        return {str(k): _value(str(k), v, prompts=prompts, depth=depth + 1) for k, v in items}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, prompts=prompts, depth=depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"({len(value)} bytes)"
    return masked_text(_short(_shown(value)))


def _shown(value: object) -> str:
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001 - a broken repr must not cost the line that reports it
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"


def _short(text: str) -> str:
    # Cut first: the pattern is not run over a text of megabytes.
    short = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}… ({len(text)} characters)"
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], short)
