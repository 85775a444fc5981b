"""Checks of an agent: the kit plays the server."""

# Importing a module enters its checks; those of both sides come first, as in the protocol's document.
from obt_conformance import both_sides
from obt_conformance.agent_harness import CHECKS
from obt_conformance.agent_rules import jobs, requests, session

__all__ = ["CHECKS", "both_sides", "jobs", "requests", "session"]
