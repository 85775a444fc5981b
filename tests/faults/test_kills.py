"""SIGKILL of real processes at two steps; ``make faults`` does it at every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Kill, run_kill
from tests.faults.place import Ledger


@pytest.mark.parametrize(
    "kill", [Kill("agent", "finish", "after"), Kill("server", "finish_job", "after")], ids=str
)
async def test_a_program_that_is_killed_leaves_each_job_with_one_final(kill: Kill, tmp_path: Path) -> None:
    ledger, problems = await run_kill(kill, tmp_path)
    assert problems == []
    assert ledger == Ledger(accepted=2, finals=2, duplicates=0)
