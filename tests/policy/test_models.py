"""Which models a server may name: one name in all its spellings, patterns, registries, remote models."""

import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.errors import InvalidParams, NotPermitted
from obt_agent.ollama.payloads import RunningModel
from obt_agent.policy.models import full_pattern
from tests.policy.configs import installed, policy

SPELLINGS = [
    "secret",
    "SECRET",
    "Secret:latest",
    "secret:LATEST",
    "library/secret",
    "registry.ollama.ai/library/secret",
    "Registry.Ollama.AI/Library/Secret:Latest",
    "https://registry.ollama.ai/library/secret:latest",
]


def refused(section: dict[str, object], name: str, *models: object) -> str:
    with pytest.raises(NotPermitted) as error:
        policy(**section).check_model(name, models)  # type: ignore[arg-type]  # InstalledModel
    key = str(error.value.detail["policy_key"])
    assert key in error.value.message
    return key


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize(
    "pattern", ["secret", "secret:latest", "Secret*", "*/library/secret:*", "library/secret"]
)
def test_a_denied_model_is_denied_in_every_spelling(name: str, pattern: str) -> None:
    assert refused({"models": {"deny": [pattern]}}, name) == "policy.models.deny"


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_allowed_model_is_allowed_in_every_spelling_and_no_other_is(name: str) -> None:
    only = policy(models={"allow": ["secret"]})
    assert str(only.check_model(name)) == "registry.ollama.ai/library/secret:latest"
    for other in ("secret2", "someone/secret", "hf.co/library/secret", "secre"):
        with pytest.raises(NotPermitted, match=r"policy\.models\.allow"):
            only.check_model(other)


def test_deny_wins_over_allow_and_reaches_every_namespace() -> None:
    section: dict[str, object] = {"models": {"allow": ["*"], "deny": ["secret"]}}
    for name in ("someone/secret", "hf.co/someone/secret:Q4_K_M", "secret:70b"):
        assert refused(section, name) == "policy.models.deny"
    policy(**section).check_model("secrets-of-the-sea")


def test_another_name_of_a_denied_model_is_denied_by_its_digest() -> None:
    models = (installed("secret:latest", "d9"), installed("harmless:latest", "d9"), installed("free", "d1"))
    section: dict[str, object] = {"models": {"deny": ["secret"]}}
    assert refused(section, "harmless", *models) == "policy.models.deny"
    policy(**section).check_model("free", models)
    assert [model.name for model in policy(**section).visible(models)] == ["free"]


@pytest.mark.parametrize(
    "name", ["gpt-oss:120b-cloud", "kimi-k2:cloud", "GPT-OSS:120B-CLOUD", "x/glm-cloud:latest"]
)
def test_cloud_models_are_denied_by_their_names(name: str) -> None:
    assert refused({}, name) == "policy.remote_models"
    policy(remote_models=True).check_model(name)


@pytest.mark.parametrize(
    "stub", [{"remote_host": "https://ollama.com:443"}, {"remote_model": "gpt-oss:120b"}]
)
def test_a_stub_of_a_remote_model_is_denied_under_any_name(stub: dict[str, str]) -> None:
    models = (installed("harmless:latest", **stub), installed("tiny:latest", "d2"))
    assert refused({}, "Harmless", *models) == "policy.remote_models"
    assert [model.name for model in policy().visible(models)] == ["tiny:latest"]
    assert len(policy(remote_models=True).visible(models)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1:9/library/x",
        "localhost:22/a/b",
        "[::1]:80/a/b",
        "http://10.0.0.1:5432/a/b",
        "evil.example/a/b:c",
    ],
)
def test_a_pull_reaches_no_host_that_is_not_on_the_list(name: str) -> None:
    with pytest.raises((NotPermitted, InvalidParams)) as error:
        policy().check_source(name)
    if isinstance(error.value, NotPermitted):
        assert error.value.detail["policy_key"] == "policy.registries"


def test_registries_are_patterns_too() -> None:
    section = {"registries": ["registry.ollama.ai", "*.example.org"]}
    policy(**section).check_source("models.EXAMPLE.org/team/model:7b")
    policy(**section).check_source("llama3.2")
    with pytest.raises(NotPermitted):
        policy(**section).check_source("example.org.evil.net/team/model")
    with pytest.raises(NotPermitted):
        policy(registries=[]).check_source("llama3.2")


def test_lists_show_only_what_may_be_named() -> None:
    section = {"models": {"allow": ["tiny*"]}}
    models = (installed("tiny:latest"), installed("big:70b", "d2"), installed("..//odd", "d3"))
    running = tuple(
        RunningModel(name=name, digest="d", size_bytes=1, size_vram_bytes=0)
        for name in ("tiny:latest", "big:70b")
    )
    assert [model.name for model in policy(**section).visible(models)] == ["tiny:latest"]
    assert [model.name for model in policy(**section).visible_running(running, models)] == ["tiny:latest"]


def test_a_loaded_copy_of_a_denied_model_is_not_shown_even_after_it_was_deleted() -> None:
    section = {"models": {"deny": ["secret"]}}
    copy = RunningModel(name="copy:latest", digest="d-secret", size_bytes=1, size_vram_bytes=0)
    models = (installed("secret:latest", "d-secret"), installed("copy:latest", "d-secret"))
    assert policy(**section).visible_running((copy,), models) == ()
    assert policy(**section).visible_running((copy,), models[:1]) == ()


def test_what_is_no_name_is_invalid_not_forbidden() -> None:
    with pytest.raises(InvalidParams):
        policy().check_model("/etc/passwd")
    odd = (installed("..//odd"),)
    assert policy(models={"deny": ["x"]}).check_model("tiny", odd).model == "tiny"


@pytest.mark.parametrize(
    ("pattern", "deny", "full"),
    [
        ("*", False, "*"),
        ("Llama3.2", False, "registry.ollama.ai/library/llama3.2:*"),
        ("llama3.2:1b", False, "registry.ollama.ai/library/llama3.2:1b"),
        ("someone/model", False, "registry.ollama.ai/someone/model:*"),
        ("hf.co/*", False, "hf.co/*:*"),
        ("*/model", False, "*/model:*"),
        ("llama3.2", True, "*/llama3.2:*"),
        ("hf.co/a/b:c", True, "hf.co/a/b:c"),
    ],
)
def test_what_a_pattern_leaves_out_is_filled_in(pattern: str, deny: bool, full: str) -> None:
    assert full_pattern(pattern, deny=deny) == full


@given(st.text(alphabet="abcABC019._-/:", min_size=1, max_size=30), st.data())
def test_case_never_changes_a_decision(name: str, data: st.DataObject) -> None:
    swapped = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in name)
    owner = policy(models={"allow": ["a*", "b/*"], "deny": ["*c*"]})

    def decision(text: str) -> str:
        try:
            return str(owner.check_model(text))
        except (NotPermitted, InvalidParams) as error:
            return error.kind

    assert decision(name) == decision(swapped)


def calls(function: Callable[[], object]) -> int:
    """How many calls of Python functions it takes."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@given(size=st.integers(20, 150))
@settings(max_examples=10, deadline=None)
def test_a_list_twice_as_long_costs_twice_as_much(size: int) -> None:
    """A peer can make the list long: each of its models is checked against the whole list."""

    def cost(length: int) -> int:
        models = tuple(installed(f"m{number}:latest", f"d{number}") for number in range(length))
        owner = policy(models={"deny": ["other"]})
        running = tuple(
            RunningModel(name=model.name, digest=model.digest, size_bytes=1, size_vram_bytes=0)
            for model in models
        )

        def use() -> None:
            assert owner.visible(models) == models
            assert owner.visible_running(running, models) == running
            for model in models:
                owner.check_model(model.name, models)
                assert owner.find_model(model.name, models) is model

        return calls(use)

    assert cost(2 * size) <= 2.2 * cost(size)


def test_a_list_that_did_not_change_costs_one_pass() -> None:
    models = tuple(installed(f"m{number}:latest") for number in range(100))
    owner = policy()
    first = calls(lambda: owner.visible(models))
    assert calls(lambda: owner.visible(models)) < first / 50


def test_another_list_is_decided_afresh() -> None:
    owner = policy(models={"deny": ["secret"]})
    copy = installed("free:latest", "d1")
    assert owner.visible((copy,)) == (copy,)
    assert owner.visible((copy, installed("secret:latest", "d1"))) == ()
