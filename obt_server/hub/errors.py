"""Errors of the hub itself; those that an agent answers with are the classes of ``obt_agent.errors``."""

from __future__ import annotations

from obt_agent.errors import AgentError


class HubError(AgentError):
    """Base of what the hub refuses without asking an agent."""

    kind = "hub"


class UnknownAgent(HubError):
    """No agent of that id or name is enrolled."""

    kind = "agent_unknown"


class AmbiguousAgent(HubError):
    """Several agents bear that name: name one by its id."""

    kind = "agent_ambiguous"


class AgentOffline(HubError):
    """The agent is enrolled, and has no session now."""

    kind = "agent_offline"
    retryable_by_default = True


class OutOfReach(HubError):
    """Another server process has the agent, and cannot be asked now: what is between the two is away."""

    kind = "bus_unavailable"
    retryable_by_default = True


class Draining(HubError):
    """The server is about to stop."""

    kind = "draining"
    retryable_by_default = True
