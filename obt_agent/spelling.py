"""What a misspelt word was probably meant to be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def nearest(
    word: str, candidates: Iterable[str], *, full: Mapping[str, str] | None = None, least: float = 0.6
) -> str:
    """``; did you mean X?`` for the candidate most like the word, or nothing.

    Args:
        word: what was found.
        candidates: what it may have been meant to be.
        full: how a candidate is shown, where not as it is.
        least: how like it must be, 0 to 1 (``difflib``'s ratio).
    """
    import difflib  # noqa: PLC0415 - 0.2 MB of a daemon whose configuration is right

    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=least)
    return f"; did you mean {(full or {}).get(close[0], close[0])}?" if close else ""
