"""Which processes are the model's, and when its memory is known."""

from __future__ import annotations

import pytest

from obt_agent.benchmark.model_processes import ModelMemory, ProcessFilter
from obt_agent.hardware.samples import OllamaProcess, Sample, without_weights
from tests.benchmark.samples import GIB, SECOND, sample

OURS = ProcessFilter(port=11434, blob="a" * 64)


def server(pid: int, port: int | None = 11434) -> OllamaProcess:
    return OllamaProcess(pid=pid, role="server", port=port, rss_bytes=GIB)


def runner(pid: int, of: int, blob: str | None = "a" * 64, mb: int = 1024) -> OllamaProcess:
    return OllamaProcess(pid=pid, role="runner", server_pid=of, blob=blob, rss_bytes=mb << 20)


@pytest.mark.parametrize(
    ("seen", "chosen", "word"),
    [
        ((), [], "not seen"),
        ((server(1),), [1], "was not seen"),
        ((server(1), runner(2, 1)), [1, 2], None),
        # Another Ollama, by its port; and one whose port the system does not show.
        ((server(1), runner(2, 1), server(3, 11500), runner(4, 3)), [1, 2], None),
        ((server(1, 11500), runner(2, 1), server(3, None), runner(4, 3)), [3, 4], None),
        # Neither shows its port: the weights decide, if only one runs them.
        ((server(1, None), runner(2, 1, "b" * 64), server(3, None), runner(4, 3)), [3, 4], None),
        ((server(1, None), runner(2, 1), server(3, None), runner(4, 3)), [], "several Ollama servers"),
        # The only server is ours: a container's port is another one outside.
        ((server(1, 9999), runner(2, 1)), [1, 2], None),
        # Another model of the same server.
        ((server(1), runner(2, 1, "b" * 64), runner(3, 1)), [1, 3], None),
        ((server(1), runner(2, 1, "b" * 64)), [1], "was not seen"),
        # A command line that names no weights: alone it is ours, one of several is not known.
        ((server(1), runner(2, 1, None)), [1, 2], None),
        ((server(1), runner(2, 1, None), runner(3, 1, None)), [1], "several runners"),
        # One that is about to end, beside the one that takes its place.
        ((server(1), runner(2, 1), runner(3, 1)), [1], "several runners"),
    ],
)
def test_the_models_processes_are_told_by_port_and_weights(
    seen: tuple[OllamaProcess, ...], chosen: list[int], word: str | None
) -> None:
    found = OURS.select(seen)
    assert [one.pid for one in found.processes] == chosen
    assert word is None if found.reason is None else word is not None and word in found.reason


def test_without_the_weights_digest_one_runner_is_the_models_and_two_are_not_told_apart() -> None:
    unknown = ProcessFilter(port=11434)
    assert len(unknown.select((server(1), runner(2, 1))).processes) == 2
    several = unknown.select((server(1), runner(2, 1), runner(3, 1, "b" * 64)))
    assert [one.pid for one in several.processes] == [1]


def at(t_s: float, pid: int = 2, mb: int = 1024) -> Sample:
    return sample(t_s, ollama=(server(1), runner(pid, 1, mb=mb)))


def test_the_memory_of_a_load_is_that_after_its_first_answer() -> None:
    memory = ModelMemory()
    # Loading: not all of it is resident yet.
    assert not memory.first_answer([at(1, mb=100)], 2 * SECOND)
    assert memory.first_answer([at(1, mb=100), at(3), at(4)], 2 * SECOND)
    memory.first_answer([at(7, mb=9000)], 6 * SECOND)
    assert memory.of([at(7, mb=9000)]).mb == 2048
    # Loaded anew it is another process.
    assert memory.of([at(9, pid=3)]).mb is None
    memory.first_answer([at(10, pid=3, mb=512)], 9 * SECOND)
    assert memory.of([at(10, pid=3)]).mb == 1536


def test_a_process_that_was_there_before_the_run_has_no_memory_of_its_own() -> None:
    memory = ModelMemory()
    memory.seen_before(at(0))
    memory.first_answer([at(3)], 2 * SECOND)
    assert memory.of([at(3)]).mb is None
    assert "loaded before the run" in memory.of([at(3)]).reason


@pytest.mark.parametrize("unseen", ["before the run", "after its first answer"])
def test_a_first_answer_that_no_sample_followed_is_not_replaced_by_a_later_one(unseen: str) -> None:
    memory = ModelMemory()
    if unseen == "before the run":
        memory.seen_before(sample(0, ollama=(server(1),)))
    else:
        memory.give_up()
    memory.first_answer([at(3)], 2 * SECOND)
    memory.first_answer([at(5)], 4 * SECOND)
    assert memory.of([at(5)]).mb is None
    # The next load has a first answer again.
    memory.first_answer([at(7, pid=9)], 6 * SECOND)
    assert memory.of([at(7, pid=9)]).mb == 2048


def test_a_server_is_not_told_whose_weights_a_process_runs() -> None:
    # The policy may hide the model: its weights would name it.
    seen = at(1)
    sent = without_weights(seen)
    assert [one.blob for one in sent.ollama] == [None, None]
    assert [one.rss_bytes for one in sent.ollama] == [one.rss_bytes for one in seen.ollama]
    assert without_weights(sent) is sent
