"""When the other side of an exchange was heard last."""

from __future__ import annotations


class Hearing:
    """How long the other side has said nothing while this process could have heard it.

    Args:
        now: seconds of the loop's clock.
    """

    def __init__(self, now: float) -> None:
        self.heard(now)

    def heard(self, now: float) -> None:
        """It said something."""
        self._since = now
        self._excused_s = 0.0

    def excuse(self, seconds: float, most_s: float) -> None:
        """Do not count time in which this process could not hear; ``most_s`` at most until it is heard again.

        A process that stands again and again would otherwise wait without end for one that is gone.
        """
        more_s = min(seconds, most_s - self._excused_s)
        self._excused_s += more_s
        self._since += more_s

    def silent_s(self, now: float) -> float:
        """Return for how many seconds it has said nothing."""
        return now - self._since
