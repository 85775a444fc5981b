"""What the host's owner lets a server ask for: pure decisions over the configuration's ``policy`` section."""

from obt_agent.policy.policy import Policy, PolicyDescription

__all__ = ["Policy", "PolicyDescription"]
