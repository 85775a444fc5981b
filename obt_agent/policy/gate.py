"""Where a command's model meets the policy: names against what Ollama has at this moment."""

from __future__ import annotations

from typing import Protocol

from obt_agent.ollama.catalog import Snapshot
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy.policy import Policy


class GateCatalog(Protocol):
    """The catalogue of models, as ``obt_agent.ollama.catalog.Catalog`` keeps it."""

    @property
    def snapshot(self) -> Snapshot:
        """What is known now."""

    async def refresh(self) -> Snapshot:
        """Ask Ollama now."""


class ModelGate:
    """Admits models by name.

    Args:
        policy: what the owner allows.
        catalog: what Ollama has.
    """

    def __init__(self, policy: Policy, catalog: GateCatalog) -> None:
        self._policy = policy
        self._catalog = catalog

    async def admit(self, name: str) -> tuple[InstalledModel, ...]:
        """Refuse a model that the owner does not allow; return what Ollama has.

        A name that the catalogue does not know yet may be a fresh copy of a denied or remote model: Ollama is
        asked before it passes.

        Raises:
            InvalidParams, NotPermitted
        """
        models = self._catalog.snapshot.models
        self._policy.check_model(name, models)
        if not self._policy.is_installed(name, models):
            models = (await self._catalog.refresh()).models
            self._policy.check_model(name, models)
        return models
