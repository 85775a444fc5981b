"""All cells, a few at a time, as rows of a table."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from tests.faults.catalogue import Fault
from tests.faults.cells import Outcome, run_cell
from tests.faults.timing import Timing

AT_ONCE = 4
"""Most of a cell is waiting."""

WIDTHS = (10, 30, 8, 9, 5, 5, 5)
HEADINGS = ("state", "fault", "noticed", "admitted", "jobs", "acked", "twice")


async def run_matrix(cells: Iterable[tuple[str, Fault]], timing: Timing) -> AsyncIterator[Outcome]:
    """Outcomes in the order in which they come."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def run(state: str, fault: Fault) -> Outcome:
        async with turns:
            with tempfile.TemporaryDirectory(prefix="obt-faults-") as folder:
                return await run_cell(state, fault, timing, Path(folder))

    tasks = [asyncio.create_task(run(state, fault), name=f"{state} {fault.name}") for state, fault in cells]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def row(cells: Iterable[str]) -> str:
    """One line of the table."""
    return " ".join(
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )


def shown(outcome: Outcome) -> str:
    """An outcome's line, and a line for each problem."""
    ledger = outcome.ledger
    cells = (
        outcome.state,
        outcome.fault.name,
        _seconds(outcome.noticed_s),
        _seconds(outcome.admitted_s),
        str(ledger.accepted),
        str(ledger.finals),
        str(ledger.duplicates),
    )
    return "\n".join([row(cells), *(f"    FAILED: {problem}" for problem in outcome.problems)])


def _seconds(value: float | None) -> str:
    return "held" if value is None else f"{value:.2f}"
