"""A run that was killed goes on from its records, where the method allows it."""

import msgspec
import pytest

from obt_agent.benchmark.plan import Plan, Sweep
from obt_agent.benchmark.records import (
    CellRecord,
    ColdLoadRecord,
    IterationRecord,
    NullJournal,
    Record,
    RunStarted,
    WarmupRecord,
    decode,
    encode,
)
from obt_standin import StandIn
from tests.benchmark.runs import MODEL, Stored, bench, generations, plan, result_of

WANTED = plan(cold_load=True, num_iterations=2, sweep=Sweep(num_ctx=(2048, 4096)), warmup_iterations=1)
RECORDS = 1 + 1 + 2 * (1 + 2 + 1)


async def whole(standin: StandIn, wanted: Plan = WANTED) -> list[Record]:
    journal = Stored()
    await result_of(standin, wanted, journal=journal)
    return journal.records


async def test_the_records_of_a_run_are_its_steps_in_order(standin: StandIn) -> None:
    records = await whole(standin)
    kinds = [type(record) for record in records]
    cell = [WarmupRecord, IterationRecord, IterationRecord, CellRecord]
    assert kinds == [RunStarted, ColdLoadRecord, *cell, *cell]
    assert len(records) == RECORDS


@pytest.mark.parametrize("kept", range(RECORDS + 1))
async def test_a_run_killed_after_any_record_ends_with_every_iteration_once(
    standin: StandIn, kept: int
) -> None:
    before = (await whole(standin))[:kept]
    sent = len(generations(standin))
    journal = Stored()
    result = await result_of(standin, WANTED, restored=before, journal=journal)
    assert result.status == "completed"
    assert [one.index for one in result.metrics] == [0, 1, 2, 3]
    assert [one.cell for one in result.metrics] == [0, 0, 1, 1]
    assert [cell.stopping.iterations for cell in result.cells] == [2, 2]
    restored = [record.metrics for record in before if isinstance(record, IterationRecord)]
    assert list(result.metrics[: len(restored)]) == restored
    measured = len([record for record in journal.records if isinstance(record, IterationRecord)])
    assert measured == 4 - len(restored)
    assert len(generations(standin)) - sent >= measured
    ended = {record.cell for record in before if isinstance(record, CellRecord)}
    warmed = {record.warmup.cell for record in journal.records if isinstance(record, WarmupRecord)}
    assert warmed == {0, 1} - ended  # an open cell warms up anew, an ended one is not opened again
    assert result.resumed == (1 if kept else 0)
    assert result.cold_load is not None
    loads = [record.cold_load for record in before if isinstance(record, ColdLoadRecord)]
    if loads:
        assert result.cold_load == loads[0]
    if kept:
        started = before[0]
        assert isinstance(started, RunStarted)
        assert result.start_time == started.start_time


@pytest.mark.parametrize("loaded_before", [True, False])
async def test_a_resumed_run_leaves_ollama_as_the_first_start_found_it(
    standin: StandIn, *, loaded_before: bool
) -> None:
    async with bench(standin, WANTED) as one:
        if loaded_before:
            await one.run._state.ollama.load(MODEL)  # noqa: SLF001 - another program's load
        await one.run.execute()
        before = one.journal.records[:3]
        await one.run._state.ollama.load(MODEL)  # noqa: SLF001 - as the killed run left it
        assert (await result_of(standin, WANTED, restored=before)).status == "completed"
        names = [listed.name for listed in (await one.run._state.ollama.running()).models]  # noqa: SLF001 - the same
    assert names == ([f"{MODEL}:latest"] if loaded_before else [])


async def test_a_run_whose_surroundings_changed_ends_with_what_it_had(standin: StandIn) -> None:
    before = (await whole(standin))[:4]
    standin.script.version = "0.34.0-standin"
    sent = len(generations(standin))
    result = await result_of(standin, WANTED, restored=before)
    assert result.status == "interrupted"
    assert result.error is not None
    assert "Ollama's version changed" in result.error
    assert len(result.metrics) == 1
    assert result.environment.ollama_version == "0.33.0-standin"
    assert len(generations(standin)) == sent


async def test_records_survive_their_json(standin: StandIn) -> None:
    for record in await whole(standin):
        assert decode(encode(record)) == record
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"type": "other"}')


async def test_a_journal_may_keep_nothing(standin: StandIn) -> None:
    result = await result_of(standin, journal=NullJournal())
    assert result.status == "completed"
