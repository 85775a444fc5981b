import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.log_setup import journal
from obt_agent.log_setup.journal import JournalSocket, encode, field_name
from tests.logs.journald import Journald, decoded

NAMES = st.text(string.ascii_uppercase + "_", min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.dictionaries(NAMES, TEXTS, max_size=8))
def test_any_text_arrives_as_it_was(fields: dict[str, str]) -> None:
    assert decoded(encode(fields.items())) == fields


@given(st.text(max_size=100))
def test_any_key_becomes_a_name_that_the_journal_takes(key: str) -> None:
    name = field_name(key)
    assert name.startswith("OBT_")
    assert len(name) <= 64
    assert set(name) <= set(string.ascii_uppercase + string.digits + "_")


def test_an_entry_arrives_with_its_fields(tmp_path: Path) -> None:
    with Journald(tmp_path) as journald:
        journal_ = JournalSocket(journald.path)
        assert journal_.send([("MESSAGE", "a\nb = c"), ("OBT_JOB_ID", "j-1")])
        assert journald.entry() == {"MESSAGE": "a\nb = c", "OBT_JOB_ID": "j-1"}
        journal_.close()


def test_one_too_large_for_a_datagram_arrives_in_a_sealed_file(tmp_path: Path) -> None:
    text = "x" * (12 << 20)
    with Journald(tmp_path) as journald:
        journal_ = JournalSocket(journald.path)
        assert journal_.send([("MESSAGE", text)])
        assert journald.entry() == {"MESSAGE": text}
        journal_.close()


def test_what_a_full_or_absent_journal_does_not_take_is_counted_and_then_said(tmp_path: Path) -> None:
    journal_ = JournalSocket(tmp_path / "socket")
    assert not journal_.send([("MESSAGE", "nobody there")])
    with Journald(tmp_path) as journald:
        taken = 0
        while journal_.send([("MESSAGE", "fill")]):
            taken += 1
            if taken == 1:
                assert "OBT_LOG_LOST" in journald.entry()
        lost = journal_.lost
        assert lost >= 1
        for _ in range(taken - 1):
            assert "OBT_LOG_LOST" not in journald.entry()
        assert journal_.send([("MESSAGE", "again")])
        assert journald.entry()["OBT_LOG_LOST"] == str(lost)
        assert journal_.lost == 0
    journal_.close()


def test_standard_error_leads_to_the_journal_only_if_systemd_says_this_very_stream() -> None:
    read, write = os.pipe()
    status = os.fstat(write)
    assert journal.is_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, write)
    assert not journal.is_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, write)
    assert not journal.is_stderr({}, write)
    os.close(read)
    os.close(write)
    assert not journal.is_stderr({"JOURNAL_STREAM": "1:2"}, write)


@pytest.mark.parametrize("text", ["", "\n", "a\n", "\x00\nb"])
def test_values_of_several_lines_go_with_their_length(text: str) -> None:
    assert decoded(encode([("A", text), ("B", "after")])) == {"A": text, "B": "after"}
