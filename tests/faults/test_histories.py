"""Some of the random histories of deaths and cuts; ``make faults`` runs hundreds."""

from __future__ import annotations

import pytest

from tests.faults.environment import Ledger
from tests.faults.histories import run_histories

pytestmark = pytest.mark.slow

COUNT = 20


async def test_whatever_dies_or_is_cut_each_job_has_one_final_with_nothing_lost_or_doubled() -> None:
    histories = [history async for history in run_histories(COUNT, seed=1000)]
    assert [problem for history in histories for problem in history.problems] == []
    total = Ledger(
        accepted=sum(one.ledger.accepted for one in histories),
        finals=sum(one.ledger.finals for one in histories),
        duplicates=sum(one.ledger.duplicates for one in histories),
    )
    assert total.accepted >= COUNT
    assert total == Ledger(total.accepted, total.accepted, 0)
    assert sum(history.deaths for history in histories) >= COUNT
    assert any(history.cuts for history in histories)
