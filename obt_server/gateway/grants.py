"""What a token of scope ``inference`` covers. Pure."""

from __future__ import annotations

import fnmatch

from obt_server.auth import InferenceGrant
from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import model_key


def covers_machine(grant: InferenceGrant, agent: AgentRecord) -> bool:
    """Return whether the token is for that machine."""
    return any(one in ("*", agent.id) or has_label(agent, one) for one in grant.machines)


def has_label(agent: AgentRecord, target: str) -> bool:
    """Return whether ``@label`` means that machine.

    Only labels that operators gave count: a machine must not draw prompts to itself by a label of its own.
    """
    return target.startswith("@") and target[1:] in agent.labels


def covers_model(grant: InferenceGrant, model: str) -> bool:
    """Return whether the token is for a model of that name, however it is written."""
    key = model_key(model)
    return any(fnmatch.fnmatchcase(key, _full(pattern)) for pattern in grant.models)


def _full(pattern: str) -> str:
    text = pattern.lower()
    # As in an owner's policy: a pattern without a tag means every tag.
    return text if text == "*" or ":" in text.rpartition("/")[2] else f"{text}:*"
