"""From what somebody wrote to a typed value of a key, or the words of what is wrong with it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from obt_agent.config.keys import Key
from obt_agent.config.problems import shown
from obt_agent.spelling import nearest


class WrongValue(Exception):
    """The value does not fit the key; the text says what was found and what is expected."""


# As YAML 1.1 and systemd have them; the words of the environment are the same as those of the file.
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
BOOLEANS: Final = _TRUE | _FALSE
_WHOLE: Final = re.compile(r"[+-]?\d(?:_?\d)*", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?(?:\d(?:_?\d)*)?(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
# "64 MiB" and "64MB" are the same: nobody who writes a limit means the difference.
_SIZE: Final = re.compile(r"(\d{1,18})\s*([KMGT])i?B", re.ASCII)
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# int() takes quadratic time over millions of digits; no key needs more than these.
_MAX_DIGITS: Final = 30


def from_text(key: Key, text: str) -> Any:
    """The value that ``text`` means for this key, as a variable or a plain scalar of YAML says it.

    A list is separated by commas. Sizes in bytes may carry KiB, MiB, GiB or TiB.

    Raises:
        WrongValue: it means none.
    """
    if not _is_utf_8(text):
        raise WrongValue(f"found {shown(text)}, which is not UTF-8; expected {key.expected}")
    if key.kind == "list":
        return from_items(key, [part.strip() for part in text.split(",") if part.strip()])
    parse = _PARSERS.get(key.kind)
    value = parse(key, text.strip()) if parse else text.strip()
    try:
        # The range, which is the schema's.
        return msgspec.convert(value, key.type)
    except msgspec.ValidationError as error:
        raise wrong(key, text) from error


def _is_utf_8(text: str) -> bool:
    """Whether the text can be sent and stored: other bytes of a variable or flag come here as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_items(key: Key, items: list[str]) -> Any:
    """The value of a list whose items are given one by one.

    Raises:
        WrongValue: the key takes no list, an item is wrong, or there are too many.
    """
    if key.item is None:
        raise WrongValue(f"found a list, expected {key.expected}")
    found = tuple(from_text(key.item, item) for item in items)
    try:
        # How many it may hold, which is the schema's too.
        return msgspec.convert(found, key.type)
    except msgspec.ValidationError as error:
        raise WrongValue(f"found {len(found)} items, expected {key.expected}") from error


def _bool(key: Key, text: str) -> bool:
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise wrong(key, text)


def _int(key: Key, text: str) -> int:
    if key.name.endswith("_bytes") and (size := _SIZE.fullmatch(text)):
        return int(size[1]) * _UNITS[size[2]]
    if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
        raise wrong(key, text)
    return int(text)


def _float(key: Key, text: str) -> float:
    try:
        number = float(text) if len(text) <= _MAX_DIGITS and _DECIMAL.fullmatch(text) else math.nan
    except ValueError:  # "." and "e5" fit the pattern, for each of its parts may be missing
        number = math.nan
    if not math.isfinite(number):
        raise wrong(key, text)
    return number


def _choice(key: Key, text: str) -> str:
    if text not in key.choices:
        raise WrongValue(f"found {shown(text)}, expected {key.expected}{nearest(text, key.choices)}")
    return text


_PARSERS: Final[Mapping[str, Callable[[Key, str], Any]]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "choice": _choice,
}


def wrong(key: Key, found: str) -> WrongValue:
    """The error that quotes what was found and says what is expected."""
    return WrongValue(f"found {shown(found)}, expected {key.expected}")
