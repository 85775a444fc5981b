"""How far a transfer is: sums over the layers that Ollama names in turn, and a smoothed rate. Pure."""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final

import msgspec

# Long enough that one stalled connection of Ollama's sixteen does not show, short enough to follow a change.
WINDOW_S: Final = 15.0
# Ollama sends 16 lines a second; more of them would tell no more.
_STEP_S: Final = 0.25
# From a shorter time no rate is told: the first lines come in a burst.
_LEAST_S: Final = 1.0
# Of one model: the largest have some hundred. Beyond it, progress leaves layers out.
MAX_LAYERS: Final = 10_000

# A line with another number is left out: sums of them could not be written, nor shares computed.
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class TransferStatus(msgspec.Struct):
    """One line of Ollama's."""

    status: str = ""
    digest: str = ""
    total: _Bytes | None = None
    completed: _Bytes | None = None


class TransferProgress:
    """Layers and their bytes, over all connections of one transfer."""

    def __init__(self) -> None:
        # By digest: bytes that are here, and bytes in all. Neither falls: Ollama takes a part back when its
        # connection breaks, and has less after it was killed.
        self._layers: dict[str, tuple[int, int]] = {}
        # By digest, what Ollama said last on this connection: only what came since counts for the rate.
        self._said: dict[str, int] = {}
        # Bytes that came over this connection, and when there were how many; the first is the window's start.
        self._moved = 0
        self._window: deque[tuple[float, int]] = deque()

    def connected(self) -> None:
        """Begin a connection: what is here already did not come over it."""
        self._said.clear()
        self._window.clear()
        self._moved = 0

    def note(self, line: TransferStatus, now: float) -> bool:
        """Take a line in; ``now`` is monotonic seconds. Return whether it names a new layer."""
        if not line.digest or line.total is None:
            return False
        new = line.digest not in self._said
        if new and len(self._layers) >= MAX_LAYERS and line.digest not in self._layers:
            return False
        completed = line.completed or 0
        self._moved += max(0, completed - self._said.get(line.digest, completed))
        self._said[line.digest] = completed
        done, total = self._layers.get(line.digest, (0, 0))
        self._layers[line.digest] = (max(done, completed), max(total, line.total))
        self._remember(now)
        return new

    def _remember(self, now: float) -> None:
        if not self._window or now - self._window[-1][0] >= _STEP_S:
            self._window.append((now, self._moved))
        # The last point before the window stays: the window then begins there.
        while len(self._window) > 1 and now - self._window[1][0] >= WINDOW_S:
            self._window.popleft()

    @property
    def moved(self) -> int:
        """Bytes that came over this connection."""
        return self._moved

    @property
    def completed_bytes(self) -> int | None:
        """Bytes that are here; None while Ollama has named no layer."""
        return sum(done for done, _ in self._layers.values()) if self._layers else None

    @property
    def total_bytes(self) -> int | None:
        """Bytes of the layers that were named; None while none was."""
        return sum(total for _, total in self._layers.values()) if self._layers else None

    @property
    def whole_bytes(self) -> int | None:
        """Bytes of the layers that this connection named: at its end, those of the model."""
        return sum(self._layers[digest][1] for digest in self._said) if self._said else None

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come of the layers that this connection named, by Ollama's last word on each."""
        return sum(max(0, self._layers[digest][1] - said) for digest, said in self._said.items())

    def rate(self, now: float) -> float | None:
        """Bytes a second over the window; None before it says anything."""
        if not self._window or now - self._window[0][0] < _LEAST_S:
            return None
        at, moved = self._window[0]
        return (self._moved - moved) / (now - at)

    def remaining_s(self, now: float) -> float | None:
        """Seconds to the end of the layers that were named, at this rate."""
        rate = self.rate(now)
        return self.missing_bytes / rate if rate else None
