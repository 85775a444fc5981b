"""How many files and sockets a process may have open."""

from __future__ import annotations

import sys

# The C library's own table on Windows; sockets are not in it, and are bounded by memory alone.
_OF_WINDOWS = 8192


def raise_limit(wanted: int) -> int:
    """Raise this process's soft limit on open files as far as is allowed and useful; return it."""
    if sys.platform == "win32":
        return min(wanted, _OF_WINDOWS)
    import resource  # noqa: PLC0415 - Windows has no such module

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return wanted if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    # macOS says that there is no limit, and allows no more than kern.maxfilesperproc.
    except (OSError, ValueError):
        return soft
    return target
