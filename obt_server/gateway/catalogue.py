"""What the machine or the machines of a request have: asked of one, and of several as they last said."""

from __future__ import annotations

import msgspec

from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_server.gateway.errors import GatewayRefused
from obt_server.gateway.exchange import Exchange
from obt_server.gateway.grants import covers_model
from obt_server.gateway.machines import MachineChoice
from obt_server.gateway.ollama_lists import covered
from obt_server.hub import Hub
from obt_server.storage import ServerStorage


class ModelCatalogue:
    """The models that a client sees: those that the owner shows and the token is for.

    Args:
        hub: asks the agents.
        storage: what they said last.
        machines: which machines a request means.
    """

    def __init__(self, hub: Hub, storage: ServerStorage, machines: MachineChoice) -> None:
        self._hub = hub
        self._storage = storage
        self._machines = machines

    async def installed(self, exchange: Exchange) -> list[InstalledModel]:
        """Return the models of all that are meant and there."""
        here = await self._machines.online(exchange.target, exchange.grant)
        if not exchange.target.startswith("@"):
            listed = await self._hub.call(here[0].id, "list_models")
            return covered(listed.models, exchange.grant)
        # Of a label's machines what they reported: a list must not make a hundred machines work.
        versions = [one for agent in here for one in await self._storage.versions(agent_id=agent.id)]
        # What was installed once and is gone stays stored.
        models = (msgspec.json.decode(one.details, type=InstalledModel) for one in versions if one.current)
        return covered(models, exchange.grant)

    async def running(self, exchange: Exchange) -> list[RunningModel]:
        """Return the models that are loaded there."""
        here = await self._machines.online(exchange.target, exchange.grant)
        if not exchange.target.startswith("@"):
            models = (await self._hub.call(here[0].id, "running_models")).models
        else:
            known = [self._hub.presence(agent.id) for agent in here]
            models = [model for presence in known if presence is not None for model in presence.running]
        return [model for model in models if covers_model(exchange.grant, model.name)]

    async def version(self, exchange: Exchange) -> str:
        """Return the version of Ollama there, of several machines the first one's.

        Raises:
            GatewayRefused: no Ollama answers there.
        """
        # From memory: clients ask this before everything else.
        here = await self._machines.online(exchange.target, exchange.grant)
        for agent in here:
            presence = self._hub.presence(agent.id)
            state = None if presence is None else presence.ollama
            if state is not None and state.reachable and state.version:
                return state.version
        if not exchange.target.startswith("@"):
            # That nothing answers may be what was so until Ollama's last start: the machine is asked.
            now = (await self._hub.call(here[0].id, "list_models")).ollama
            if now.reachable and now.version:
                return str(now.version)
        raise GatewayRefused(503, f"No Ollama answers at {exchange.target[:200]}.")
