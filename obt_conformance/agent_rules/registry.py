"""Where the checks of an agent are entered."""

from __future__ import annotations

from typing import Final

from obt_conformance.agent_harness import AgentHarness
from obt_conformance.checks import CheckRegistry

CHECKS: Final[CheckRegistry[AgentHarness]] = CheckRegistry()
