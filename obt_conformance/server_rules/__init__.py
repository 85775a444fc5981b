"""Checks of a server: the kit plays the agent."""

# Importing a module enters its checks; those of both sides come first, as in the protocol's document.
from obt_conformance import both_sides
from obt_conformance.server_harness import CHECKS
from obt_conformance.server_rules import enrolment, jobs, requests, session

__all__ = ["CHECKS", "both_sides", "enrolment", "jobs", "requests", "session"]
