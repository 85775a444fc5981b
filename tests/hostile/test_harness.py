"""The harness of ``make hostile``, for some seconds: nothing of its times is asserted here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from obt_agent.protocol.methods import METHODS
from tests.hostile.__main__ import LIMITS, table
from tests.hostile.against_agent import against_agent
from tests.hostile.against_server import Outcome, against_server
from tests.hostile.frames import TARGETS, VALUES, frame
from tests.hostile.waits import Waits

pytestmark = pytest.mark.slow


def test_every_message_and_every_field_is_among_the_frames() -> None:
    assert {target[0] for target in TARGETS if target[1] == "params"} == set(METHODS)
    paths = {(method, ".".join(path)) for method, _, _, path, _ in TARGETS}
    assert ("models.sync", "models.size_bytes") in paths
    assert ("run_benchmark", "plan.prompt_config.completion_tokens") in paths
    assert ("hardware.sync", "inventory.gpus.name") in paths


def test_every_frame_fits_the_limit_of_what_is_read() -> None:
    sizes = [len(frame(target, value, 1).text) for target in range(0, len(TARGETS), 7) for value in VALUES]
    assert 500_000 < max(sizes) < 1 << 20


def test_a_p99_of_ten_times_breaks_the_promise_and_a_failure_counts_as_for_ever() -> None:
    waits = Waits()
    waits.seconds["a"] = {"quiet": [0.01] * 100, "attacked": [0.01] * 98 + [0.2] * 2}
    waits.seconds["b"] = {"quiet": [0.01] * 100, "attacked": [0.09] * 100}
    assert [promise.partition(":")[0] for promise in waits.broken()] == ["a"]
    waits.phase = "attacked"
    for _ in range(2):
        with waits.measured("b"):
            raise ConnectionError("refused")
    assert [promise.partition(":")[0] for promise in waits.broken()] == ["a", "b"]
    text = table(Outcome("server", LIMITS[0], counts=Counter({"x": 3}), waits=waits, broken=["one"]))
    assert "| x | 3 |" in text
    assert "BROKEN: one" in text


def alive(outcome: Outcome) -> None:
    """All but the times, which a busy machine may spoil."""
    assert [promise for promise in outcome.broken if "p99" not in promise] == [], table(outcome)
    assert 0 < outcome.peak_bytes < outcome.limit_bytes


async def test_an_agent_survives_some_seconds_of_everything(tmp_path: Path) -> None:
    alive(await against_agent(tmp_path, 5.0, LIMITS[0]))


async def test_a_server_survives_some_seconds_of_everything(tmp_path: Path) -> None:
    alive(await against_server(tmp_path, 5.0, LIMITS[0]))
