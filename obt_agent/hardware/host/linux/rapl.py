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
        self._ranges: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._total_uj = 0

    def probe(self) -> None:
        """Look again for package domains; readings after this keep counting on."""
        names = optional(partial(self._root.names, _FOLDER)) or []
        packages = [f"{_FOLDER}/{name}" for name in names if self._is_package(name)]
        self._ranges = {folder: self._range(folder) for folder in packages}

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
            self._total_uj += now - before if now >= before else max(0, now - before + span)
            self._last[folder] = now
        return self._total_uj / 1e6

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    def _is_package(self, name: str) -> bool:
        if not name.startswith("intel-rapl:"):
            return False
        domain = optional(partial(self._root.text, f"{_FOLDER}/{name}/name")) or ""
        return domain.startswith("package")

    def _range(self, folder: str) -> int:
        return optional(partial(self._root.integer, f"{folder}/max_energy_range_uj")) or 0
