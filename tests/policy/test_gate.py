"""The gate: names against what Ollama has at this moment."""

import msgspec
import pytest

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import NotPermitted, Unsupported
from obt_agent.ollama.catalog import Catalog, Snapshot
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.policy.gate import Capability, ModelGate
from tests.policy.configs import installed, policy


class Models(Catalog):
    """A catalogue that knows more once it is asked again."""

    def __init__(self, known: tuple[InstalledModel, ...], fresh: tuple[InstalledModel, ...] = ()) -> None:
        super().__init__(OllamaClient(OllamaConfig()))
        self._snapshot = self._of(known)
        self.fresh = fresh
        self.asked = 0

    def _of(self, models: tuple[InstalledModel, ...]) -> Snapshot:
        return Snapshot(1, OllamaState(reachable=True), models, (), "", stale=False)

    async def refresh(self) -> Snapshot:
        self.asked += 1
        self._snapshot = self._of(self.fresh)
        return self._snapshot


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
    assert policy().find_model("registry.ollama.ai/library/LLAMA3", models) is models[1]
    assert policy().find_model("llama3:8b", models) is None


@pytest.mark.parametrize(
    ("able", "to", "words"),
    [
        (("embedding",), "completion", "cannot generate text: its capabilities are embedding"),
        (("completion", "tools"), "embedding", "cannot embed: its capabilities are completion, tools"),
    ],
)
async def test_a_model_that_does_only_the_other_thing_is_refused(
    able: tuple[str, ...], to: Capability, words: str
) -> None:
    models = Models((msgspec.structs.replace(installed("tiny:latest"), capabilities=able),))
    with pytest.raises(Unsupported, match=f"tiny:latest {words}"):
        await ModelGate(policy(), models).admit("tiny", to=to)


@pytest.mark.parametrize("able", [(), ("image",), ("completion", "embedding")])
async def test_a_model_of_which_that_is_not_known_passes(able: tuple[str, ...]) -> None:
    models = Models((msgspec.structs.replace(installed("tiny:latest"), capabilities=able),))
    await ModelGate(policy(), models).admit("tiny", to="completion")
    await ModelGate(policy(), models).admit("tiny", to="embedding")
