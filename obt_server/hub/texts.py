"""Texts of agents that are stored: what no database holds is refused before anything is done with it."""

from __future__ import annotations

from obt_agent.errors import InvalidParams


def storable(text: str, most: int) -> bool:
    """Return whether a text may be stored: not longer than that, and without U+0000, as PostgreSQL has it."""
    return len(text) <= most and "\0" not in text


def check_storable(text: str, most: int, field: str, least: int = 0) -> None:
    """Raise InvalidParams for a text that may not be stored, or is too short.

    Args:
        text: what an agent said.
        most: its characters.
        field: its path, for the agent.
        least: its characters.
    """
    if len(text) < least or not storable(text, most):
        raise InvalidParams(f"{field}: {least} to {most} characters, and none of them U+0000.", field=field)
