"""What Ollama's figures mean, version by version."""

import pytest

from obt_agent.benchmark.semantics import parse, semantics, version_class


@pytest.mark.parametrize(
    ("version", "eval_duration", "prompt_eval_count"),
    [
        ("0.1.48", "from_first_token", "uncached_part"),
        ("0.1.49", "from_first_token", "whole_prompt"),
        ("0.12.5", "from_first_token", "whole_prompt"),
        ("0.12.6", "from_first_token_without_sampling", "whole_prompt"),
        ("0.20.7", "from_first_token_without_sampling", "whole_prompt"),
        ("0.20.8", "from_first_token", "whole_prompt"),
        ("0.30.0", "from_first_token", "uncached_part"),
        ("0.30.1", "from_first_token", "whole_prompt"),
        ("0.33.0-rc2", "from_first_token", "whole_prompt"),
        ("v0.14", "from_first_token_without_sampling", "whole_prompt"),
    ],
)
def test_the_meaning_follows_the_version(version: str, eval_duration: str, prompt_eval_count: str) -> None:
    found = semantics(version)
    assert (found.eval_duration, found.prompt_eval_count) == (eval_duration, prompt_eval_count)
    assert ("sampling" in found.note) == (eval_duration != "from_first_token")


@pytest.mark.parametrize("version", ["0.0.0", "main", "", "weird-1.2.3"])
def test_a_development_build_has_no_known_meaning(version: str) -> None:
    assert parse(version) is None
    assert semantics(version).eval_duration == "unknown"


def test_versions_compare_by_what_their_figures_mean() -> None:
    assert version_class("0.33.0") == version_class("0.21.0")
    assert version_class("0.33.0") != version_class("0.20.0")
    assert version_class(None) is None
