"""Synthetic prompts: nonces that differ, words that do not, lengths that are calibrated."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark import plan as plan_module
from obt_agent.benchmark import synthetic
from obt_agent.benchmark.expansion import Cell
from obt_agent.benchmark.plan import PromptConfig
from obt_agent.benchmark.request_body import opened
from obt_agent.benchmark.synthetic import Observation


def test_nonces_never_repeat_and_open_the_prompt() -> None:
    seen = {synthetic.nonce() for _ in range(2000)}
    assert len(seen) == 2000
    assert synthetic.text("opening", 3).startswith("opening ")


def test_the_words_after_the_nonce_are_always_the_same() -> None:
    first, second = synthetic.text("a", 50), synthetic.text("b", 50)
    assert first.split()[1:] == second.split()[1:]
    assert len(set(first.split())) > 25


@given(st.integers(8, 20_000), st.floats(0.6, 4), st.integers(1, 14))
def test_two_observations_find_the_length_of_any_linear_tokenizer(
    target: int, slope: float, nonce: int
) -> None:
    def count(words: int) -> int:
        return round(nonce + slope * words)

    seen: list[Observation] = []
    for _ in range(3):
        words = synthetic.words_for(target, seen)
        seen.append(Observation(words, count(words)))
    reached = count(synthetic.words_for(target, seen))
    assert abs(reached - target) <= max(slope, nonce - target + slope) + 2  # counts are rounded


def test_a_target_below_the_nonce_asks_for_no_words() -> None:
    assert synthetic.words_for(3, []) == 0
    assert synthetic.words_for(3, [Observation(0, 9)]) == 0


def test_a_given_text_is_opened_by_the_nonce_only_when_it_is_to_be_new() -> None:
    cell = Cell(index=0, prompt=PromptConfig(prompt="Say it."), num_ctx=4096, concurrency=1)
    assert opened(cell, None, 0).text == "Say it."
    assert opened(cell, "abc", 0).text == "abc\n\nSay it."
    assert opened(cell, "abc", 0).words is None


def test_other_words_are_another_method_and_need_another_version_of_the_plans_hash() -> None:
    """Whoever changes the words or their order raises ``plan._HASH_VERSION``, and both values here."""
    digest = hashlib.sha256(synthetic.text("nonce", 5000).encode()).hexdigest()
    assert (plan_module._HASH_VERSION, digest[:16]) == (1, "a513a8ec67d4be96")  # noqa: SLF001 - what is pinned
