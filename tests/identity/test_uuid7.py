import time
import uuid

import pytest

from obt_agent.identity.uuid7 import is_uuid7, uuid7


def test_it_is_of_version_7_and_variant_rfc_9562() -> None:
    made = uuid7()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert is_uuid7(str(made))


def test_it_begins_with_the_time_in_milliseconds() -> None:
    before, made, after = time.time_ns() // 1_000_000, uuid7(), time.time_ns() // 1_000_000
    assert before <= made.int >> 80 <= after


def test_no_two_are_alike() -> None:
    assert len({uuid7() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "687136ed-bb27-4cb5-9d5a-7775152481dd",
        "01A203CD-B5AE-7F59-9F80-7475D1CCB603",
        "01a203cdb5ae7f599f807475d1ccb603",
    ],
)
def test_other_texts_are_none(text: str) -> None:
    assert not is_uuid7(text)
