"""What a campaign came to: the exit status, the table, JUnit XML and Markdown."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from obt_server.cli import campaign_report as report


def cell(number: int, **fields: Any) -> dict[str, Any]:
    usual = {
        "id": f"c{number}",
        "agent_id": "a1",
        "agent_name": "box",
        "model": "m:1b",
        "plan_hash": "h1",
        "repeat": 1,
        "state": "done",
        "reason": None,
        "error": None,
        "remedy": None,
        "started_at": 100.0,
        "finished_at": 112.5,
        "value": 41.25,
        "low": 40.0,
        "high": 42.5,
        "flags": [],
    }
    return usual | fields


def campaign(*cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "k1",
        "name": "nightly",
        "state": "done",
        "created_at": 1_700_000_000.0,
        "plans": [{"hash": "h1", "label": "short"}, {"hash": "h2", "label": "long"}],
        "cells": list(cells),
    }


def verdict(word: str, **fields: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "agent_id": "a1",
        "model": "m:1b",
        "plan_hash": "h1",
        "verdict": word,
        "text": f"is {word}",
        "point": None,
        "changed": [],
    }
    return usual | fields


FAILED = cell(2, plan_hash="h2", state="failed", reason="Ollama went away.", value=None, low=None, high=None)
REFUSED = cell(
    3,
    agent_id="a2",
    agent_name="desk",
    state="refused",
    reason="Not allowed.",
    remedy="policy: x",
    **dict.fromkeys(("value", "started_at", "finished_at")),
)


@pytest.mark.parametrize(
    ("cells", "verdicts", "status"),
    [
        ([cell(1)], [verdict("no_difference_shown")], 0),
        ([cell(1)], [verdict("not_comparable")], 0),
        ([cell(1)], [], 0),
        ([cell(1)], [verdict("slower")], 1),
        ([cell(1), FAILED], [verdict("slower")], 1),
        ([cell(1), FAILED], [verdict("faster")], 3),
        ([cell(1), REFUSED], [], 3),
    ],
)
def test_the_exit_status_is_1_for_a_regression_and_3_for_a_cell_without_a_result(
    cells: list[dict[str, Any]], verdicts: list[dict[str, Any]], status: int
) -> None:
    assert report.exit_status(report.measured(campaign(*cells), verdicts)) == status


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("slower", "1 slower"),
        ("no_difference_shown", "none slower than its baseline"),
        ("not_comparable", "none compared with a baseline"),
    ],
)
def test_the_one_line_does_not_say_that_none_is_slower_where_none_was_compared(word: str, says: str) -> None:
    found = report.measured(campaign(cell(1)), [verdict(word)])
    assert report.headline(campaign(cell(1)), found) == f"nightly: 1 of 1 cells measured, {says}"


def junit(of: dict[str, Any], *verdicts: dict[str, Any]) -> ET.Element:
    return ET.fromstring(report.junit(of, report.measured(of, verdicts)))  # noqa: S314 - written here


def test_junit_has_a_suite_for_each_machine_and_counts_that_add_up() -> None:
    root = junit(campaign(cell(1), FAILED, REFUSED), verdict("slower"))
    assert (root.tag, root.get("name")) == ("testsuites", "nightly")
    counts = ("tests", "failures", "errors", "skipped", "time")
    assert [root.get(name) for name in counts] == ["3", "1", "1", None, "25.000"]
    box, desk = root.findall("testsuite")
    assert [box.get(name) for name in ("name", *counts)] == ["box", "2", "1", "1", "0", "25.000"]
    assert [desk.get(name) for name in ("name", *counts)] == ["desk", "1", "0", "0", "1", "0.000"]
    assert box.get("timestamp") == "2023-11-14T22:13:20"
    slow, broken = box.findall("testcase")
    assert (slow.get("classname"), slow.get("name"), slow.get("time")) == ("box", "m:1b · short", "12.500")
    failure, error, skipped = slow.find("failure"), broken.find("error"), desk.find("testcase/skipped")
    assert failure is not None
    assert (failure.get("type"), failure.get("message"), failure.text) == ("slower", "is slower", "is slower")
    assert "41.25 (40 to 42.5)" in (slow.findtext("system-out") or "")
    assert error is not None
    assert error.get("message") == "Ollama went away."
    assert skipped is not None
    assert skipped.get("message") == "Not allowed. To allow it: policy: x"


def test_junit_has_only_what_the_usual_schema_of_it_allows_in_its_order() -> None:
    root = junit(campaign(cell(1, flags=["used_meanwhile"]), FAILED, REFUSED), verdict("faster"))
    allowed = {
        "testsuites": {"name", "tests", "failures", "errors", "time"},
        "testsuite": {"name", "timestamp", "tests", "failures", "errors", "skipped", "time"},
        "testcase": {"classname", "name", "time"},
        "failure": {"message", "type"},
        "error": {"message", "type"},
        "skipped": {"message"},
        "system-out": set(),
    }
    for element in root.iter():
        assert set(element.attrib) <= allowed[element.tag]
    for case in root.iter("testcase"):
        # One outcome at most, before what was written out.
        assert [child.tag for child in case] in (
            [["system-out"], ["error"], ["skipped"], ["failure", "system-out"]]
        )
    assert "flags: used_meanwhile" in (root.findtext(".//system-out") or "")


def test_repeats_of_one_measurement_are_one_test_case_whose_name_stays_from_night_to_night() -> None:
    of = campaign(cell(1), cell(2, repeat=2, value=43.0), cell(3, repeat=3, state="cancelled", value=None))
    (case,) = junit(of, verdict("faster")).iter("testcase")
    assert (case.get("name"), case.get("time")) == ("m:1b · short", "37.500")
    assert case.find("skipped") is None
    assert report.exit_status(report.measured(of, [verdict("faster")])) == 3


def test_names_from_machines_break_neither_the_xml_nor_the_table() -> None:
    evil = "a\x1b[2J\x00 | <b>\n&"
    of = campaign(cell(1, agent_name=evil, flags=["x\ny"]))
    found = report.measured(of, [verdict("slower", text=evil)])
    case = next(junit(of, verdict("slower", text=evil)).iter("testcase"))
    assert case.get("classname") == "a\\x1b[2J\\x00 | <b>\\n&"
    lines = report.markdown(of, found).splitlines()
    assert lines[4].count(" | ") == 5
    assert "\x1b" not in "".join(lines)
    assert "<b>" not in "".join(lines)


def test_markdown_says_what_is_slower_first_and_what_changed_beside_it() -> None:
    changed = [{"what": "driver", "before": "570", "after": "580"}]
    slower = verdict("slower", plan_hash="h2", changed=changed)
    of = campaign(cell(1), cell(2, plan_hash="h2"))
    page = report.markdown(of, report.measured(of, [verdict("faster"), slower]))
    lines = page.splitlines()
    assert lines[0] == "# nightly: 2 of 2 cells measured, 1 slower"
    assert lines[4].startswith("| box | m:1b | long | 41.25 (40 to 42.5) | **slower** | is slower |")
    assert lines[5].startswith("| box | m:1b | short |")
    assert lines[-1] == "Changed beside box, m:1b, long: driver 570 → 580"


def test_the_table_says_why_there_is_no_result() -> None:
    of = campaign(cell(1), REFUSED)
    head, first, second = report.rows(of, report.measured(of, []))
    assert head == ("MACHINE", "MODEL", "PLAN", "STATE", "TOK/S", "VERDICT", "WHY")
    assert first == ("box", "m:1b", "short", "done", "41.25 (40 to 42.5)", "-", "no verdict")
    assert second[3:] == ("refused", "-", "-", "Not allowed. To allow it: policy: x")


def test_a_pull_says_how_far_it_is() -> None:
    pulling = {"state": "pulling", "value": None, "reason": "Rollout r pulls the model."}
    far = {"progress": 0.426, "completed_bytes": 1_300_000_000, "total_bytes": 3_050_000_000}
    begun = campaign(cell(1, **pulling, progress=None), cell(2, plan_hash="h2", **pulling, **far))
    states = [row[3] for row in report.rows(begun, report.measured(begun, []))]
    assert states[1:] == ["pulling", "pulling 43 % (1.3 GB of 3.05 GB)"]


def test_a_sweep_is_one_row_that_says_what_is_slower_at_which_points() -> None:
    at = [verdict(word, text=f"is {word} at {point}", point=str(point)) for point, word in enumerate(WORDS)]
    (slow,) = report.measured(campaign(cell(1)), at)
    assert (slow.slower, report.exit_status([slow])) == (True, 1)
    assert slow.words == "is slower at 1 is slower at 3"
    (row,) = list(report.rows(campaign(cell(1)), [slow]))[1:]
    assert row[-2:] == ("slower", "is slower at 1 is slower at 3")
    (same,) = report.measured(campaign(cell(1)), [at[0], at[2], verdict("not_comparable", point="4")])
    assert (same.slower, same.words) == (False, "No difference shown at 2 of 3 points.")


WORDS = ("no_difference_shown", "slower", "no_difference_shown", "slower")
