"""SIGKILL of real processes before and after every commit of a job's life."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.environment import Ledger
from tests.faults.kills import KILLS, Kill, run_kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kill", KILLS, ids=[kill.title for kill in KILLS])
async def test_a_program_that_is_killed_leaves_each_job_with_one_final(kill: Kill, tmp_path: Path) -> None:
    ledger, problems = await run_kill(kill, tmp_path)
    assert problems == []
    assert ledger == Ledger(accepted=2, finals=2, duplicates=0)
