"""Checks of an agent: the kit plays the server."""

from obt_conformance.agent_rules import admission, calls, jobs, liveness, streams, transport
from obt_conformance.agent_rules.registry import CHECKS

__all__ = ["CHECKS", "admission", "calls", "jobs", "liveness", "streams", "transport"]
