"""Sums over layers never fall, and the rate is that of what came over this connection lately."""

from __future__ import annotations

import pytest

from obt_agent.jobs.transfer_progress import MAX_LAYERS, WINDOW_S, TransferProgress, TransferStatus


def line(digest: str, completed: int | None, total: int) -> TransferStatus:
    return TransferStatus(status="pulling", digest=digest, completed=completed, total=total)


def test_sums_never_fall_when_ollama_takes_a_part_back_or_begins_anew() -> None:
    progress = TransferProgress()
    sums = []
    for completed in (400, 700, 500):
        progress.note(line("a", completed, 1000), 0.0)
        sums.append(progress.completed_bytes)
    progress.connected()
    progress.note(line("a", None, 1000), 1.0)
    assert [*sums, progress.completed_bytes] == [400, 700, 700, 700]
    assert progress.missing_bytes == 1000, "what is still to come is by Ollama's last word"
    progress.note(line("b", 10, 10), 2.0)
    assert (progress.completed_bytes, progress.total_bytes) == (710, 1010)


def test_what_was_here_before_the_connection_is_no_speed() -> None:
    progress = TransferProgress()
    progress.note(line("a", 900, 1000), 0.0)
    assert progress.rate(0.5) is None
    progress.note(line("a", 950, 1000), 5.0)
    assert progress.rate(5.0) == pytest.approx(10.0)
    assert progress.remaining_s(5.0) == pytest.approx(5.0)
    progress.connected()
    assert progress.rate(6.0) is None


def test_the_rate_is_that_of_the_window() -> None:
    progress = TransferProgress()
    for second in range(60):
        # Ten times slower from half a minute on.
        completed = second * 100 if second < 30 else 3000 + (second - 30) * 10
        progress.note(line("a", completed, 100_000), float(second))
    assert progress.rate(59.0) == pytest.approx(10.0)
    assert WINDOW_S < 30


def test_a_stall_shows_as_no_end_in_sight() -> None:
    progress = TransferProgress()
    for second in range(40):
        progress.note(line("a", min(second, 5) * 100, 1000), float(second))
    assert progress.rate(39.0) == 0
    assert progress.remaining_s(39.0) is None


def test_layers_beyond_the_most_are_left_out() -> None:
    progress = TransferProgress()
    for number in range(MAX_LAYERS + 5):
        progress.note(line(f"d{number}", 1, 1), 0.0)
    assert progress.total_bytes == MAX_LAYERS
