"""Energy of the CPU packages through RAPL (Intel and AMD).

Linux lets only root read it unless told otherwise, for the counter was used to infer secrets of other
programs (CVE-2020-8694). docs/reference/hardware.md has the udev rule that lets a group read it.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import Unreadable, optional
from obt_agent.hardware.snapshot.root import FileCache, Root

_FOLDER = "/sys/class/powercap"


class Rapl:
    """The sum of all packages' counters, with their wraps taken out."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._hot = FileCache(root)
        # By package's folder, the microjoules at which its counter starts again from 0.
        self._ranges: dict[str, int] = {}
        # What each counter read last; it stays through a new probe, so that nothing is counted twice.
        self._last: dict[str, int] = {}
        self._total_uj = 0

    def probe(self) -> None:
        """Look again for package domains; readings after this keep counting on."""
        domains = self._root.below(_FOLDER, "intel-rapl:")
        # Below a package lie domains of its parts, which it counts already; "psys" is the whole machine.
        packages = [one for one in domains if self._root.known_text(f"{one}/name").startswith("package")]
        self._ranges = {
            folder: optional(partial(self._root.integer, f"{folder}/max_energy_range_uj")) or 0
            for folder in packages
        }

    def joules(self) -> float:
        """Joules of all packages since the first reading.

        Raises:
            Unreadable: there is no RAPL ("not_present").
            OSError: mostly EACCES, for only root may read it.
        """
        if not self._ranges:
            raise Unreadable("not_present")
        for folder, span in self._ranges.items():
            now = self._hot.integer(f"{folder}/energy_uj")
            before = self._last.get(folder, now)
            # A counter that fell has wrapped; on fast machines that takes less than an hour.
            self._total_uj += now - before if now >= before else max(0, now - before + span)
            self._last[folder] = now
        return self._total_uj / 1e6

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()
