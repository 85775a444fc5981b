"""Where a command's model meets the policy: names against what Ollama has at this moment."""

from __future__ import annotations

from typing import Final, Literal

from obt_agent.errors import Unsupported
from obt_agent.ollama.catalog import Catalog
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy.policy import Policy

Capability = Literal["completion", "embedding"]
_THE_OTHER: Final[dict[Capability, Capability]] = {"completion": "embedding", "embedding": "completion"}


class ModelGate:
    """Admits models by name.

    Args:
        policy: what the owner allows.
        catalog: what Ollama has.
    """

    def __init__(self, policy: Policy, catalog: Catalog) -> None:
        self._policy = policy
        self._catalog = catalog

    async def admit(self, name: str, *, to: Capability | None = None) -> tuple[InstalledModel, ...]:
        """Refuse a model that the owner does not allow, or that cannot do this; return what Ollama has.

        A name that the catalogue does not know yet may be a fresh copy of a denied or remote model: Ollama is
        asked before it passes.

        Args:
            name: of the model, however it is written.
            to: what the command is going to do with it, where that needs a capability.

        Raises:
            InvalidParams, NotPermitted, Unsupported
        """
        models = self._catalog.snapshot.models
        self._policy.check_model(name, models)
        found = self._policy.find_model(name, models)
        if found is None:
            models = (await self._catalog.refresh()).models
            self._policy.check_model(name, models)
            found = self._policy.find_model(name, models)
        if found is not None and to is not None:
            _check_capability(found, to)
        return models


def _check_capability(model: InstalledModel, to: Capability) -> None:
    # Older releases of Ollama report no capabilities, and a model that makes images has neither of the two:
    # only one that is known to do the other thing alone is refused.
    able = model.capabilities
    if to not in able and _THE_OTHER[to] in able:
        does = "generate text" if to == "completion" else "embed"
        raise Unsupported(f"{model.name} cannot {does}: its capabilities are {', '.join(able)}.")
