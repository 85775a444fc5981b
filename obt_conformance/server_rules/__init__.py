"""Checks of a server: the kit plays the agent."""

from obt_conformance.server_rules import (
    calls,
    enrolment,
    jobs,
    life,
    opening,
    streams,
    transport,
)
from obt_conformance.server_rules.book import BOOK

__all__ = ["BOOK", "calls", "enrolment", "jobs", "life", "opening", "streams", "transport"]
