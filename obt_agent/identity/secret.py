"""A text that nothing shows by accident."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, NoReturn

# By this, scanners of repositories and the log's masks know an agent's secret.
_PREFIX: Final = "obta_"


class Secret:
    """Holds a secret; only ``reveal`` gives it out.

    ``repr``, ``str``, f-strings, ``json``, ``pickle`` and ``copy`` show a mask or fail: what logs, prints or
    stores it by accident cannot leak it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def new(cls) -> Secret:
        """A fresh secret of 256 random bits."""
        return cls(_PREFIX + secrets.token_urlsafe(32))

    def reveal(self) -> str:
        """The secret itself: for a header of a request, or for the file that keeps it."""
        return self._text

    def sha256(self) -> str:
        """Its SHA-256 (of the UTF-8 text) in hexadecimal, which may be shown and sent."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        # In constant time, so that nobody learns a secret by measuring comparisons.
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied; hand on the Secret itself")
