"""Where the checks of a server are entered."""

from __future__ import annotations

from typing import Final

from obt_conformance.checks import CheckRegistry
from obt_conformance.server_harness import ServerHarness

CHECKS: Final[CheckRegistry[ServerHarness]] = CheckRegistry()
