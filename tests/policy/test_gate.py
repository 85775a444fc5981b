"""The gate: names against what Ollama has at this moment."""

import pytest

from obt_agent.errors import NotPermitted
from obt_agent.ollama.catalog import Snapshot
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.policy.gate import ModelGate
from tests.policy.configs import installed, policy


class Models:
    """A catalogue that knows more once it is asked again."""

    def __init__(self, known: tuple[InstalledModel, ...], fresh: tuple[InstalledModel, ...] = ()) -> None:
        self.snapshot = self._of(known)
        self.fresh = fresh
        self.asked = 0

    def _of(self, models: tuple[InstalledModel, ...]) -> Snapshot:
        return Snapshot(1, OllamaState(reachable=True), models, (), "", stale=False)

    async def refresh(self) -> Snapshot:
        self.asked += 1
        self.snapshot = self._of(self.fresh)
        return self.snapshot


async def test_a_known_model_passes_without_asking_ollama() -> None:
    models = Models((installed("..//odd"), installed("Tiny:latest", "d2")))
    await ModelGate(policy(), models).admit("tiny")
    assert models.asked == 0


async def test_a_fresh_name_is_looked_up_before_it_passes() -> None:
    stub = installed("innocent:latest", remote_host="https://ollama.com")
    models = Models((), (stub,))
    with pytest.raises(NotPermitted, match=r"policy\.remote_models"):
        await ModelGate(policy(), models).admit("innocent")
    assert models.asked == 1


async def test_a_denied_name_is_refused_before_ollama_hears_of_it() -> None:
    models = Models(())
    with pytest.raises(NotPermitted):
        await ModelGate(policy(models={"deny": ["secret"]}), models).admit("secret")
    assert models.asked == 0


def test_installed_is_by_canonical_name() -> None:
    models = (installed("..//odd"), installed("llama3:latest"))
    assert policy().is_installed("registry.ollama.ai/library/LLAMA3", models)
    assert not policy().is_installed("llama3:8b", models)
