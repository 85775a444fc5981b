"""What came on a socket: frames as plain JSON values, and the socket's end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Frame:
    """One frame that came. ``message`` is {} when it was no JSON object; ``at`` is monotonic seconds."""

    at: float
    size: int
    message: JsonObject

    @property
    def method(self) -> str | None:
        """None for answers."""
        found = self.message.get("method")
        return found if isinstance(found, str) else None

    @property
    def id(self) -> Any:
        """None where there is none."""
        return self.message.get("id")

    @property
    def params(self) -> JsonObject:
        """{} where there are none."""
        return _object(self.message.get("params"))

    @property
    def result(self) -> JsonObject:
        """{} where there is none; every result of the protocol is an object."""
        return _object(self.message.get("result"))

    @property
    def error_code(self) -> int | None:
        """None unless it is an error answer; 0 for one without a code."""
        if "error" not in self.message:
            return None
        code = _object(self.message["error"]).get("code")
        return code if isinstance(code, int) else 0

    @property
    def error_message(self) -> str:
        """Empty unless it is an error answer."""
        return str(_object(self.message.get("error")).get("message", ""))

    @property
    def error_data(self) -> JsonObject:
        """{} unless it is an error answer that brings some."""
        return _object(_object(self.message.get("error")).get("data"))

    @property
    def is_request(self) -> bool:
        """Whether it wants an answer."""
        return self.method is not None and "id" in self.message

    @property
    def is_answer(self) -> bool:
        """Whether it is one."""
        return self.method is None and ("result" in self.message or "error" in self.message)


@dataclass(frozen=True)
class Closed:
    """How the socket ended; 1006 without a closing handshake."""

    at: float
    code: int
    reason: str
