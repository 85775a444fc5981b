"""Look for code that nothing but tests reaches: ``python scripts/check_unused.py`` (part of ``make lint``).

vulture finds functions, methods, properties and classes that no package, document, benchmark or script names.
What is left must stand in ``KEPT`` with its reason; an entry that nothing needs fails too.
Fields are left out: those of messages are read by whoever is at the other end of the wire.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from vulture import Vulture

ROOT: Final = Path(__file__).parents[1]
USERS: Final = (
    "obt_agent",
    "obt_server",
    "obt_standin",
    "obt_conformance",
    "benchmarks",
    "docs",
    "scripts",
    "hatch_build.py",
)
PACKAGES: Final = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")
KINDS: Final = {"class", "function", "method", "property"}
REGISTERED: Final = [
    *("@CHECKS.check", "@_check", "@model_validator"),
    *("@*.get", "@*.post", "@*.put", "@*.patch", "@*.delete"),
]
"""Decorators that hand the function to somebody who calls it."""

BY_LIBRARIES: Final = {
    "connection_lost": "asyncio calls it on a protocol",
    "eof_received": "asyncio, the same",
    "pause_writing": "asyncio, the same",
    "resume_writing": "asyncio, the same",
    "handle_ping": "uvicorn's WebSocket protocol calls it",
    "load_dialect_impl": "SQLAlchemy calls it on a type of columns",
    "process_bind_param": "SQLAlchemy, the same",
    "makefile": "http.client reads an answer through it",
    "nvml*": "looked up by name, as in the driver's binding",
}
"""Names that a library prescribes, with who calls them."""

KEPT: Final = {
    "obt_server.contrib.obt.mount_agents": "public: OBT's application calls it",
    "obt_server.serve.capture_signals": "uvicorn calls it; it replaces uvicorn's own",
    "obt_standin.server.open_streams": "public: what tests with the stand-in ask for",
}
"""Code that is called from where vulture cannot look, by its place, with who calls it."""


def unused() -> dict[str, str]:
    """Return what is found: its place as a dotted name, and the line of the report."""
    finder = Vulture(ignore_decorators=REGISTERED, ignore_names=list(BY_LIBRARIES))
    finder.scavenge([str(ROOT / name) for name in USERS])
    found = {}
    for item in finder.get_unused_code(min_confidence=60):
        path = Path(item.filename).relative_to(ROOT)
        if item.typ in KINDS and path.parts[0] in PACKAGES:
            module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            found[f"{module}.{item.name}"] = f"{path}:{item.first_lineno}: {item.typ} {item.name}"
    return found


def main() -> int:
    """Print what is unused and has no reason, and reasons that nothing needs; return 1 if there are any."""
    found = unused()
    for name in sorted(set(found) - set(KEPT)):
        sys.stdout.write(f"{found[name]} is reached by tests alone, or by nothing\n")
    for name in sorted(set(KEPT) - set(found)):
        sys.stdout.write(f"scripts/check_unused.py: {name} is used, or gone: remove it from KEPT\n")
    return 0 if set(found) == set(KEPT) else 1


if __name__ == "__main__":
    sys.exit(main())
