"""The method of benchmarks is loaded when the first one begins."""

from __future__ import annotations

import sys

import pytest

from obt_agent.benchmark.plan import Plan
from obt_agent.daemon.components import benchmark_run
from obt_agent.errors import Unsupported


def test_a_benchmark_of_a_program_that_was_replaced_meanwhile_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "obt_agent.benchmark.run", None)
    with pytest.raises(Unsupported, match="restart it"):
        benchmark_run(Plan(model_name="standin-small"), cooldown_s=0.0)
