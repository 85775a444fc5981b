"""What became of agents' sockets since the process began."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from obt_agent.protocol.limits import Close

# Those of RFC 6455 that a peer or the server itself may end with, and the protocol's own.
_KNOWN_CODES: Final = frozenset({1002, 1005, 1006, 1007, 1011, 1012}) | {
    code for name, code in vars(Close).items() if name.isupper()
}


@dataclass
class LinkCounters:
    """Admissions, refusals and ends, the latter two by close code."""

    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    def refuse(self, code: int) -> None:
        """Count a socket that was not admitted."""
        self.refused[_name(code)] += 1

    def end(self, code: int) -> None:
        """Count a session that ended."""
        self.ended[_name(code)] += 1


def _name(code: int) -> str:
    # A peer chooses its code: each unknown one would be a counter of its own, three thousand of them.
    return str(code) if code in _KNOWN_CODES else "other"
