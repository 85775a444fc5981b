from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from obt_agent.log_setup.folding import Folding


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failure(text: str = "refused", level: str = "warning", **more: Any) -> dict[str, Any]:
    return {"event": "dial.failed", "level": level, "error": text, **more}


def test_a_failure_that_repeats_is_one_line_and_then_a_count() -> None:
    clock = Clock()
    folding = Folding(600, clock)
    lines = []
    for attempt in range(100):
        clock.now = attempt * 10.0
        lines += [one for one in folding.passed(failure(attempt=attempt)) if one["level"] == "warning"]
    assert lines == [failure(attempt=0), failure(attempt=60, repeated=59)]
    assert folding.rest() == [failure(attempt=0, repeated=39)]


def test_repeats_are_still_there_at_debug() -> None:
    folding = Folding(600, Clock())
    folding.passed(failure())
    assert folding.passed(failure()) == [failure(level="debug", repeats=1)]
    assert folding.passed(failure()) == [failure(level="debug", repeats=2)]


def test_another_text_is_another_failure() -> None:
    folding = Folding(600, Clock())
    folding.passed(failure("refused"))
    assert folding.passed(failure("timed out")) == [failure("timed out")]
    assert folding.passed(failure("refused", job_id="b")) == [failure("refused", job_id="b")]


def test_informative_lines_are_never_folded() -> None:
    folding = Folding(600, Clock())
    event = failure(level="info")
    assert [folding.passed(event) for _ in range(3)] == [[event]] * 3


def test_the_count_of_one_that_stopped_comes_with_the_next_line_after_a_while() -> None:
    clock = Clock()
    folding = Folding(600, clock)
    for _ in range(4):
        folding.passed(failure(exception="Traceback"))
    clock.now = 1300.0
    other = {"event": "link.admitted", "level": "info"}
    assert folding.passed(other) == [failure(repeated=3), other]
    assert folding.passed(other) == [other]
    assert folding.rest() == []


def test_one_that_comes_again_much_later_is_a_line_of_its_own() -> None:
    clock = Clock()
    folding = Folding(600, clock)
    folding.passed(failure())
    clock.now = 5000.0
    assert folding.passed(failure()) == [failure()]


def test_of_very_many_different_failures_the_oldest_are_forgotten() -> None:
    folding = Folding(600, Clock())
    for number in range(300):
        folding.passed(failure(str(number)))
    assert folding.passed(failure("0")) == [failure("0")]
    assert folding.passed(failure("299"))[0]["level"] == "debug"


@given(st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 900)), max_size=400))
def test_nothing_is_lost_and_memory_is_bounded(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    folding = Folding(600, clock)
    shown = 0
    for number, pause in steps:
        clock.now += pause
        for event in folding.passed(failure(str(number))):
            shown += event.get("repeated", 0) + (event["level"] == "debug")
    assert len(folding._entries) <= 256  # noqa: SLF001 - the bound itself is what is looked at
    assert all(event["repeated"] > 0 for event in folding.rest())
    assert shown <= 2 * len(steps)
