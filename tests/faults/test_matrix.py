"""A representative part of the fault matrix; ``make faults`` runs the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.catalogue import BY_NAME
from tests.faults.cells import CELLS, run_cell
from tests.faults.matrix import shown
from tests.faults.timing import SHORT

pytestmark = pytest.mark.slow

PATIENT = replace(SHORT, margin_s=20.0, hub=replace(SHORT.hub, silence_s=5))
"""The machine may be busy: what must come, comes, but nothing is said about how soon."""

CHOSEN = (
    ("idle", "stall to the agent"),
    ("idle", "TLS: wrong host"),
    ("admitted", "401"),
    ("admitted", "second dial, same process"),
    ("streaming", "black hole"),
    ("streaming", "stall to the server"),
    ("crowded", "throttle 16 KiB/s each way"),
    ("uploading", "lost to the agent"),
    ("uploading", "throttle 16 KiB/s each way"),
    ("benchmark", "cut in mid-frame, sending"),
    ("draining", "half close"),
)


@pytest.mark.parametrize(("state", "fault"), CHOSEN, ids=[" ".join(one) for one in CHOSEN])
async def test_the_agent_notices_returns_and_loses_nothing(state: str, fault: str, tmp_path: Path) -> None:
    outcome = await run_cell(state, BY_NAME[fault], PATIENT, tmp_path)
    assert outcome.problems == [], shown(outcome)


def test_every_fault_meets_every_state_but_where_there_is_no_connection() -> None:
    assert len(CELLS) == 7 * len(BY_NAME) - 3
