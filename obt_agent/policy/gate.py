"""Where a command's model meets the policy: names against what Ollama has at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from obt_agent.errors import InvalidParams
from obt_agent.ollama.catalog import Snapshot
from obt_agent.ollama.names import canonical
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
        """Refuse a model that the owner does not allow; gives what Ollama has.

        A name that the catalogue does not know yet may be a fresh copy of a denied or remote model: Ollama is
        asked before it passes.

        Raises:
            InvalidParams, NotPermitted
        """
        models = self._catalog.snapshot.models
        self._policy.check_model(name, models)
        if not is_installed(name, models):
            models = (await self._catalog.refresh()).models
            self._policy.check_model(name, models)
        return models


def is_installed(name: str, models: Sequence[InstalledModel]) -> bool:
    """Whether Ollama has a model of this name, however it is written."""
    wanted = canonical(name)
    return any(_same(model.name, wanted) for model in models)


def _same(name: str, wanted: object) -> bool:
    try:
        return canonical(name) == wanted
    except InvalidParams:
        return False
