"""Transfers at the gate: paused for a benchmark where that stops Ollama, and noted where it does not."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from obt_agent.errors import Busy
from obt_agent.jobs import GenerationGate


@pytest.mark.parametrize(
    ("mode", "stops", "asked", "noted"),
    [
        ("pause", True, 1, {}),
        # Ollama makes layers to the end, whoever listens.
        ("pause", False, 1, {"create_model": 1}),
        ("note", True, 0, {"create_model": 1}),
    ],
)
def test_what_does_not_stop_for_a_benchmark_is_noted_in_it(
    mode: Literal["pause", "note"], stops: bool, asked: int, noted: dict[str, int]
) -> None:
    gate = GenerationGate(transfers=mode)
    calls = []

    def pause() -> bool:
        calls.append("pause")
        return stops

    with gate.transfer("create_model", pause), gate.benchmark("b") as counted:
        assert len(calls) == asked
        assert counted == noted
    # One that has ended is no longer asked.
    with gate.benchmark("c") as counted:
        assert (len(calls), counted) == (asked, {})


def test_what_ended_before_the_measuring_began_is_not_counted_and_what_is_under_way_is() -> None:
    gate = GenerationGate(transfers="note")
    with gate.benchmark("b") as counted:
        with gate.generation("chat"):
            pass
        with gate.generation("generate"), gate.transfer("create_model", lambda: False):
            gate.count_from_now()
        assert counted == {"generate": 1, "create_model": 1}
        with gate.generation("embed"):
            assert counted == {"generate": 1, "create_model": 1, "embed": 1}


async def test_transfers_wait_until_no_benchmark_runs() -> None:
    gate = GenerationGate()
    await gate.transfers_may_run()
    with gate.benchmark("first"):
        waiting = asyncio.create_task(gate.transfers_may_run())
        await asyncio.sleep(0)
    # The next one begins before the waiter had its turn.
    with gate.benchmark("second"):
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    async with asyncio.timeout(20):
        await waiting


def test_the_measured_model_is_busy_by_any_form_of_its_name() -> None:
    gate = GenerationGate()
    with gate.benchmark("b", "llama3"):
        with pytest.raises(Busy):
            gate.check_deletion("registry.ollama.ai/library/Llama3:latest")
        gate.check_deletion("llama3:8b")
    gate.check_deletion("llama3")
