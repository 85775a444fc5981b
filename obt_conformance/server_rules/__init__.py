"""Checks of a server: the kit plays the agent."""

from obt_conformance.server_rules import admission, calls, enrolment, jobs, liveness, streams, transport
from obt_conformance.server_rules.registry import CHECKS

__all__ = ["CHECKS", "admission", "calls", "enrolment", "jobs", "liveness", "streams", "transport"]
