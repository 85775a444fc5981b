"""The agent's own named prompts: few, fixed, and always run with a fixed number of tokens. Pure.

A server that wants other prompts sends their text. The texts are part of the plan's hash, so that a changed
text is a changed plan.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

# Name of this set, for ``prompt_config.suite_name``.
SUITE: Final = "obt-agent"

# Prompt texts by name.
NAMED: Final[MappingProxyType[str, str]] = MappingProxyType(
    {
        "explain": (
            "Explain to a curious adult how a tide comes about. Cover the pull of the Moon and of the "
            "Sun, why most coasts see two high waters a day, and why the height differs from week to "
            "week. Use plain words and no formulas."
        ),
        "code": (
            "Write a Python function that takes a list of closed intervals of integers and returns the "
            "smallest list of disjoint closed intervals that covers the same integers. Give type "
            "annotations, a docstring, and five short tests with pytest. Then state its running time and "
            "why."
        ),
        "reason": (
            "Four colleagues share one car and live in four villages in a row, ten kilometres apart. Each "
            "must be at an office in the second village at a different hour of the morning. Work out, "
            "step by step, a timetable with the fewest kilometres driven, and check it against every "
            "condition."
        ),
        "summarise": (
            "Summarise the following minutes in five sentences. The council met at seven. The first "
            "matter was the bridge over the mill stream, which has been closed since a beam cracked in "
            "March; the engineer recommended a steel beam at twice the price of oak, with half the "
            "upkeep. Two members asked for figures over thirty years. The second matter was the library, "
            "which wants to open on Sundays with volunteers; the council agreed to a trial of six months. "
            "The third was a complaint about the church clock, which strikes at night; no decision was "
            "taken. The meeting closed at nine."
        ),
    }
)
