"""Checks of an agent: the kit plays the server."""

from obt_conformance.agent_rules import calls, jobs, life, opening, streams, transport
from obt_conformance.agent_rules.book import BOOK

__all__ = ["BOOK", "calls", "jobs", "life", "opening", "streams", "transport"]
