"""The default routes of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROUTE_FILES: Final = (Path("/proc/net/route"), Path("/proc/net/ipv6_route"))
_IPV4_DEFAULT: Final = "00000000"
_IPV6_DEFAULT: Final = ("0" * 32, "00")
# Lines with another number of fields are headings, or of a kernel that writes something else.
_IPV4_FIELDS, _IPV6_FIELDS = 11, 10


def default_routes(files: Sequence[Path] = ROUTE_FILES) -> frozenset[tuple[str, str, str]]:
    """Return interface, gateway and metric of each; nothing where the files cannot be read."""
    ipv4, ipv6 = _lines(files[0], _IPV4_FIELDS), _lines(files[1], _IPV6_FIELDS)
    found = {
        (interface, gateway, metric)
        for interface, to, gateway, _, _, _, metric, mask, *_ in ipv4
        if to == mask == _IPV4_DEFAULT
    }
    found |= {
        (interface, gateway, metric)
        for to, prefix, _, _, gateway, metric, _, _, _, interface in ipv6
        if (to, prefix) == _IPV6_DEFAULT and interface != "lo"
    }
    return frozenset(found)


def _lines(path: Path, fields: int) -> list[list[str]]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [line for line in lines if len(line) == fields]
