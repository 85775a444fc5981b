"""The harness of ``make hostile``, for some seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.__main__ import LIMIT_BYTES, against_agent
from tests.hostile.frames import VALUES, corpus

pytestmark = pytest.mark.slow


def test_every_kind_of_value_is_among_the_frames() -> None:
    frames = corpus()
    assert {next(frames)[0] for _ in range(60)} == set(VALUES)


async def test_an_agent_survives_some_seconds_of_everything(tmp_path: Path) -> None:
    outcome = await against_agent(tmp_path, seconds=5.0)
    assert outcome.fault == ""
    assert 0 < outcome.peak_bytes < LIMIT_BYTES
