"""Hostile frames, some dozens of sets; ``python -m tests.faults fuzz --examples N`` for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import fuzz

pytestmark = pytest.mark.slow

EXAMPLES = 60


def test_an_agent_survives_whatever_a_server_says() -> None:
    fuzz.fuzz_agent(EXAMPLES)


def test_a_server_survives_whatever_an_agent_says(tmp_path: Path) -> None:
    fuzz.fuzz_server(EXAMPLES, tmp_path)


def test_both_sides_have_golden_frames_to_start_from() -> None:
    assert len(fuzz.golden("server")) > 10
    assert len(fuzz.golden("agent")) > 10
