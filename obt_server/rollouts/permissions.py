"""What the owners of machines allow, as far as a server knows it, and what would allow more. Pure."""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from obt_agent.protocol.methods import COMMANDS
from obt_agent.protocol.remedies import remedy
from obt_server.rollout_storage import RolloutAction

METHOD_OF_ACTION: Final[dict[RolloutAction, str]] = {
    "pull": "pull_model",
    "create": "create_model",
    "copy": "copy_model",
    "delete": "delete_model",
    "load": "load_model",
    "unload": "unload_model",
}
_CHANGES: Final = frozenset(method.name for method in COMMANDS if method.changes)


class ActionPermission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a machine's owner allows an action; the key that forbids it, the line that would allow it."""

    allowed: bool
    policy_key: str | None = None
    remedy: str | None = None


Permissions = dict[RolloutAction, ActionPermission]
"""What a machine's owner allows, by action."""


@functools.lru_cache(maxsize=256)
def permissions(capabilities: tuple[str, ...]) -> Permissions | None:
    """Return what a hello's capabilities say; None for a machine that never said any."""
    if not capabilities:
        return None
    return {action: permission(action, capabilities) for action in METHOD_OF_ACTION}


def permission(action: RolloutAction, capabilities: tuple[str, ...]) -> ActionPermission:
    """Whether an action is among the capabilities; see ``method_permission``."""
    return method_permission(METHOD_OF_ACTION[action], capabilities)


def method_permission(method: str, capabilities: tuple[str, ...]) -> ActionPermission:
    """Whether a command is among the capabilities.

    They say what is allowed, and not why something is not: the key is the one that forbids it by default.
    The refusal itself names the right one.
    """
    if method in capabilities:
        return ActionPermission(allowed=True)
    key = "policy.allow_changes" if method in _CHANGES else "policy.commands.deny"
    return ActionPermission(allowed=False, policy_key=key, remedy=remedy(key, {"command": method}))
