"""Checks of an agent: the kit plays the server."""

from obt_conformance.agent_rules import admission, calls, jobs, liveness, streams, transport
from obt_conformance.agent_rules.registry import BOOK

__all__ = ["BOOK", "admission", "calls", "jobs", "liveness", "streams", "transport"]
