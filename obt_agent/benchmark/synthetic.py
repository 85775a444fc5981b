"""Prompts of a given length in tokens, each opened by a nonce that is never used again. Pure but for chance.

Ollama keeps the longest common prefix of a prompt and of what its slot holds, so a nonce that comes first
makes all that follows uncached. The words after it are always the same ones, so that every iteration does
equal work. Their number is calibrated with the token counts that Ollama returned in the warm-ups.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

# Common words, so that most tokenizers need one token for each.
# fmt: off
WORDS: Final = (
    "stone", "river", "garden", "window", "paper", "market", "bridge", "winter", "letter", "morning",
    "school", "engine", "valley", "kitchen", "summer", "harbour", "candle", "forest", "doctor",
    "silver", "table", "number", "basket", "corner", "island", "captain", "village", "water",
    "mountain", "farmer", "music", "butter", "cotton", "travel", "circle", "finger", "metal", "pocket",
    "ribbon", "station", "thunder", "uncle", "voice", "yellow", "animal", "branch", "carpet", "dinner",
    "evening", "flower", "guitar", "hammer", "insect", "jacket", "ladder", "mirror", "needle", "orange",
    "pencil", "quarter", "rocket", "saddle", "ticket", "umbrella", "violin", "wagon",
)
# fmt: on

# Opens prompts that are meant to be cached.
FIXED_OPENING: Final = "benchmark"

_NONCE_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
# 26^12 is 2^56: no two runs of any machine share an opening.
_NONCE_LETTERS: Final = 12
_FIRST_GUESS_TOKENS_PER_WORD: Final = 1.15
_FIRST_GUESS_NONCE_TOKENS: Final = 7.0
# Tokens a word: outside these two counts contradict each other, and the line would run away.
_LEAST_SLOPE, _MOST_SLOPE = 0.5, 8.0


class Observation(NamedTuple):
    """How many tokens Ollama counted in a prompt of so many words."""

    words: int
    tokens: int


def nonce() -> str:
    """Twelve random letters (56 bits), from the system's source of randomness."""
    return "".join(secrets.choice(_NONCE_ALPHABET) for _ in range(_NONCE_LETTERS))


def text(opening: str, words: int) -> str:
    """A prompt: the nonce, then so many words, the same ones each time."""
    return " ".join([opening, *(WORDS[_pick(position)] for position in range(words))])


def _pick(position: int) -> int:
    """A fixed sequence without short repeats, which some models continue by repeating."""
    return hashlib.sha256(position.to_bytes(4, "big")).digest()[0] % len(WORDS)


def words_for(target: int, observations: Sequence[Observation]) -> int:
    """How many words make ``target`` tokens, from what was counted so far.

    Without any, a guess; with one observation the guess's nonce and its own tokens per word; with more,
    the line through the two observations nearest to the target. At least 0.
    """
    if not observations:
        return max(math.floor((target - _FIRST_GUESS_NONCE_TOKENS) / _FIRST_GUESS_TOKENS_PER_WORD), 0)
    # Tokenizers are linear enough near the target; far from it the nonce and rare words weigh differently.
    nearest = sorted(observations, key=lambda one: abs(one.tokens - target))
    best = nearest[0]
    slope = _slope(best, nearest[1:])
    return max(round(best.words + (target - best.tokens) / slope), 0)


def _slope(best: Observation, others: Sequence[Observation]) -> float:
    other = next((one for one in others if one.words != best.words), None)
    if other is not None:
        slope = (other.tokens - best.tokens) / (other.words - best.words)
    elif best.words:
        slope = (best.tokens - _FIRST_GUESS_NONCE_TOKENS) / best.words
    else:
        slope = _FIRST_GUESS_TOKENS_PER_WORD
    return min(max(slope, _LEAST_SLOPE), _MOST_SLOPE)
