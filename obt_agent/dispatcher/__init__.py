"""Commands to tasks: limits, policy, cancellation, and exactly one final answer to each."""

from obt_agent.dispatcher.core import Dispatcher

__all__ = ["Dispatcher"]
