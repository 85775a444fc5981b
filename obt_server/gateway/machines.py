"""Which machine a request is for: the one that it names, or the first of a label that can take it."""

from __future__ import annotations

from typing import Final

from obt_agent.ollama.names import same_model
from obt_server.auth import InferenceGrant
from obt_server.gateway.errors import GatewayRefused
from obt_server.gateway.exchange import Exchange
from obt_server.gateway.grants import covers_machine, covers_model, has_label
from obt_server.hub import Hub
from obt_server.hub.presence import Presence
from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import model_key

MEASURING_RETRY_MS: Final = 30_000
"""Benchmarks run for minutes."""
UNKNOWN_RETRY_MS: Final = 2000
"""An agent tells of its models right after it came; one of another server, when that is heard."""
_MEASURES: Final = frozenset({"preflight", "cold_load", "warmup", "iteration", "cooldown", "reporting"})
"""Phases of a benchmark's progress; a transfer's are Ollama's words."""


class MachineChoice:
    """Machines as clients of the gateway name them.

    Args:
        hub: who is there.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def online(self, target: str, grant: InferenceGrant) -> list[AgentRecord]:
        """Return the machines of an id, a name or ``@label`` that are there.

        Raises:
            GatewayRefused: there is none that the token is for, or none of them is there.
        """
        # From memory: a read of the database for each request would be most of what a request costs here.
        records = (await self._hub.directory.current()).values()
        meant = [one for one in records if target in (one.id, one.name) or has_label(one, target)]
        # An id wins: a machine that calls itself by another's id must not get that one's prompts.
        meant = [one for one in meant if one.id == target] or meant
        allowed = [one for one in meant if covers_machine(grant, one)]
        if not allowed:
            # One answer for both: a token says nothing of machines that it is not for.
            raise GatewayRefused(404, f"There is no machine {target[:200]!r} that this token is for.")
        if len(allowed) > 1 and not target.startswith("@"):
            raise GatewayRefused(409, f"{len(allowed)} machines are called {target[:200]!r}; use an id.")
        here = [one for one in allowed if self._hub.presence(one.id) is not None]
        if not here:
            raise GatewayRefused(503, f"{target[:200]} is not connected to the server now; nothing was sent.")
        return here

    async def choose(self, exchange: Exchange, model: str | None) -> str:
        """Choose the machine of an exchange, and return the model's name. Raise as ``for_model``."""
        if not model:
            raise GatewayRefused(400, "model is required")
        exchange.agent_id = await self.for_model(exchange.target, exchange.grant, model)
        return model

    async def for_model(self, target: str, grant: InferenceGrant, model: str) -> str:
        """Return the id of the machine that is to answer.

        Raises:
            GatewayRefused: the token is not for that model, or no machine can take the request now.
        """
        if not covers_model(grant, model):
            raise GatewayRefused(403, f"This token is not for the model {model[:200]!r}.")
        here = await self.online(target, grant)
        if not target.startswith("@"):
            # The agent says what it has and what its owner allows.
            return here[0].id
        known = [(one.id, presence) for one in here if (presence := self._hub.presence(one.id)) is not None]
        having = [(agent_id, presence) for agent_id, presence in known if _has(presence, model)]
        if not having and any(presence.models is None for _, presence in known):
            raise GatewayRefused(
                503,
                f"What machines of {target[:200]} have is not known yet; nothing was sent.",
                retry_after_ms=UNKNOWN_RETRY_MS,
            )
        if not having:
            raise GatewayRefused(404, f"model '{model[:200]}' not found")
        idle = [(agent_id, presence) for agent_id, presence in having if not _measures(presence)]
        if not idle:
            raise GatewayRefused(
                503,
                f"Every machine of {target[:200]} that has the model is measuring; try again later.",
                retry_after_ms=MEASURING_RETRY_MS,
            )
        loaded = [agent_id for agent_id, presence in idle if _has_loaded(presence, model)]
        return loaded[0] if loaded else idle[0][0]


def _has(presence: Presence, model: str) -> bool:
    return presence.digest_of(model) is not None or presence.digest_of(model_key(model)) is not None


def _has_loaded(presence: Presence, model: str) -> bool:
    beat = presence.heartbeat
    names = {one.name for one in presence.running} | set(beat.loaded if beat is not None else ())
    return any(same_model(name, model) for name in names)


def _measures(presence: Presence) -> bool:
    return any(
        job.state == "running" and job.progress.phase in _MEASURES for job in presence.progress.values()
    )
