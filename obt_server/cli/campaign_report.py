"""What a campaign came to: a table, the exit status, JUnit XML and Markdown. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.printable import printable
from obt_server.cli.api import size
from obt_server.client import JsonObject

DONE: Final = 0
SLOWER: Final = 1
"""A result is slower than its baseline."""
WITHOUT_RESULT: Final = 3
"""A cell has no result, and none is slower."""
NO_ANSWER: Final = 4
"""The server cannot be reached."""

_VERDICTS: Final = {
    "slower": "slower",
    "faster": "faster",
    "no_difference_shown": "no difference shown",
    "not_comparable": "not comparable",
}
_ORDER: Final = ("slower", "faster", "no_difference_shown", "not_comparable")


@dataclass(frozen=True, kw_only=True)
class MeasuredGroup:
    """One model and plan on one machine: its cells, one for each repeat, and its verdicts.

    There is one for each point of a plan that sweeps; ``verdict`` is what says most, slower before all.
    """

    machine: str
    model: str
    plan: str
    cells: tuple[JsonObject, ...]
    verdicts: tuple[JsonObject, ...]

    @property
    def verdict(self) -> JsonObject | None:
        """The verdict that says most; none where nothing was compared."""
        return min(self.verdicts, key=lambda one: _ORDER.index(one["verdict"]), default=None)

    @property
    def slower(self) -> bool:
        """Whether it is slower than its baseline."""
        return self.verdict is not None and self.verdict["verdict"] == "slower"

    @property
    def missing(self) -> tuple[JsonObject, ...]:
        """The cells without a result."""
        return tuple(cell for cell in self.cells if cell["state"] != "done")

    @property
    def figure(self) -> JsonObject | None:
        """The cell whose figure is shown: the last one that has any."""
        return next((cell for cell in reversed(self.cells) if cell["value"] is not None), None)

    @property
    def words(self) -> str:
        """The verdict in words; of what has none, why not."""
        if self.verdict is not None:
            word = self.verdict["verdict"]
            same = [one for one in self.verdicts if one["verdict"] == word]
            # What changed is said of each point where it did; that nothing did is one sentence.
            if len(self.verdicts) > 1 and word not in ("slower", "faster"):
                return f"{_VERDICTS[word].capitalize()} at {len(same)} of {len(self.verdicts)} points."
            return " ".join(str(one["text"] or _VERDICTS[word]) for one in same)
        return "; ".join(dict.fromkeys(_why(cell) for cell in self.missing)) or "no verdict"


def _why(cell: JsonObject) -> str:
    reason = cell["reason"] or (cell["error"] or {}).get("message") or cell["state"]
    # What the owner would have to write is the most useful of all that is known.
    return f"{reason} To allow it: {cell['remedy']}" if cell["remedy"] else str(reason)


def measured(campaign: JsonObject, verdicts: Sequence[JsonObject]) -> tuple[MeasuredGroup, ...]:
    """The campaign's cells by machine, model and plan, in their order."""
    labels = {plan["hash"]: plan["label"] for plan in campaign["plans"]}
    found: dict[tuple[str, str, str], list[JsonObject]] = {}
    for one in verdicts:
        found.setdefault((one["agent_id"], one["model"], one["plan_hash"]), []).append(one)
    groups: dict[tuple[str, str, str], list[JsonObject]] = {}
    for cell in campaign["cells"]:
        groups.setdefault((cell["agent_id"], cell["model"], cell["plan_hash"]), []).append(cell)
    return tuple(
        MeasuredGroup(
            machine=cells[0]["agent_name"],
            model=key[1],
            plan=labels.get(key[2]) or key[2][:12],
            cells=tuple(cells),
            verdicts=tuple(found.get(key, ())),
        )
        for key, cells in groups.items()
    )


def exit_status(found: Sequence[MeasuredGroup]) -> int:
    """0, or which of the statuses above."""
    if any(one.slower for one in found):
        return SLOWER
    return WITHOUT_RESULT if any(one.missing for one in found) else DONE


def unit(campaign: JsonObject) -> str:
    """The unit of the campaign's metric; nothing where it has none."""
    metric = BY_NAME.get(campaign.get("metric") or "")
    # The headline of a plan is a speed, whichever that is.
    return metric.unit if metric else "tok/s"


def rows(campaign: JsonObject, found: Sequence[MeasuredGroup]) -> Iterator[Sequence[str]]:
    """A table with a row for each machine, model and plan."""
    yield "MACHINE", "MODEL", "PLAN", "STATE", unit(campaign).upper() or "VALUE", "VERDICT", "WHY"
    for one in found:
        states = ", ".join(dict.fromkeys(map(_state, one.cells)))
        verdict = _VERDICTS[one.verdict["verdict"]] if one.verdict else "-"
        yield one.machine, one.model, one.plan, states, figure(one), verdict, one.words


def matrix_rows(matrix: JsonObject) -> Iterator[Sequence[str]]:
    """A campaign's matrix with a row for each machine, model and plan."""
    metric = matrix["metric"]
    machines = {one["id"]: one["name"] for one in matrix["agents"]}
    plans = {one["plan_hash"]: one["plan"] for one in matrix["rows"]}
    yield "MACHINE", "MODEL", "PLAN", (metric["unit"] or metric["name"]).upper(), "CHANGE", "VERDICT", "WHY"
    for one in matrix["cells"]:
        verdict = _VERDICTS[one["verdict"]] if one["verdict"] else "-"
        shown = "-" if one["value"] is None else _with_interval(one)
        change = "-" if one["ratio"] is None else f"{(one['ratio'] - 1) * 100:+.1f} %"
        machine, plan = machines[one["agent_id"]], plans[one["plan_hash"]]
        yield machine, one["model"], plan, shown, change, verdict, one["reason"] or ""


def _state(cell: JsonObject) -> str:
    """A cell's state; of a pull how far it is."""
    if cell["state"] != "pulling" or cell.get("progress") is None:
        return str(cell["state"])
    done, all_of_it = size(cell["completed_bytes"]), size(cell["total_bytes"])
    return f"pulling {cell['progress']:.0%} ({done} of {all_of_it})".replace("%", " %")


def figure(one: MeasuredGroup) -> str:
    """The figure with its interval."""
    return "-" if one.figure is None else _with_interval(one.figure)


def _with_interval(cell: JsonObject) -> str:
    if cell["low"] is None or cell["high"] is None:
        return f"{cell['value']:.4g}"
    return f"{cell['value']:.4g} ({cell['low']:.4g} to {cell['high']:.4g})"


def headline(campaign: JsonObject, found: Sequence[MeasuredGroup]) -> str:
    """The campaign in one line."""
    slower, missing = sum(one.slower for one in found), sum(len(one.missing) for one in found)
    cells = sum(len(one.cells) for one in found)
    compared = any(one.verdict and one.verdict["verdict"] != "not_comparable" for one in found)
    # On the first nights there is nothing to be slower than.
    none = "none slower than its baseline" if compared else "none compared with a baseline"
    words = f"{cells - missing} of {cells} cells measured, {f'{slower} slower' if slower else none}"
    return f"{campaign['name'] or campaign['id']}: {words}"


def markdown(campaign: JsonObject, found: Sequence[MeasuredGroup]) -> str:
    """A page for people: what is slower first."""
    lines = [f"# {_cell(headline(campaign, found))}", ""]
    ordered = sorted(found, key=lambda one: (not one.slower, not one.missing))
    head = ("Machine", "Model", "Plan", unit(campaign) or "Value", "Verdict", "Why")
    lines += [_row(head), _row(["---"] * len(head))]
    for one in ordered:
        verdict = _VERDICTS[one.verdict["verdict"]] if one.verdict else "no result" if one.missing else "-"
        shown = f"**{verdict}**" if one.slower else verdict
        lines.append(_row((one.machine, one.model, one.plan, figure(one), shown, one.words)))
    for one in ordered:
        slow = [each for each in one.verdicts if each["verdict"] == "slower"]
        changed = [
            f"{each['what']} {each['before']} → {each['after']}" for word in slow for each in word["changed"]
        ]
        words = "; ".join(dict.fromkeys(changed))
        if words:
            lines += ["", _cell(f"Changed beside {one.machine}, {one.model}, {one.plan}: {words}")]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Text within a table of Markdown: names come from machines."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def junit(campaign: JsonObject, found: Sequence[MeasuredGroup]) -> bytes:
    """JUnit XML: a suite for each machine, a test case for each model and plan on it.

    Slower than the baseline is a failure, a cell that failed an error, and one that was not begun skipped.
    """
    root = ET.Element("testsuites", name=printable(campaign["name"] or campaign["id"]))
    by_machine: dict[str, list[MeasuredGroup]] = {}
    for one in found:
        by_machine.setdefault(one.machine, []).append(one)
    for machine, group in by_machine.items():
        suite = ET.SubElement(root, "testsuite", name=printable(machine), timestamp=_timestamp(campaign))
        for one in group:
            _case(suite, campaign, one)
        _count(suite, suite.findall("testcase"))
    _count(root, list(root.iter("testcase")))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(suite: ET.Element, campaign: JsonObject, one: MeasuredGroup) -> None:
    seconds = sum(
        cell["finished_at"] - cell["started_at"]
        for cell in one.cells
        if cell["started_at"] is not None and cell["finished_at"] is not None
    )
    case = ET.SubElement(
        suite,
        "testcase",
        classname=printable(one.machine),
        name=printable(f"{one.model} · {one.plan}"),
        time=f"{seconds:.3f}",
    )
    why = printable(one.words)
    if one.slower:
        ET.SubElement(case, "failure", message=why, type="slower").text = why
    elif any(cell["state"] == "failed" for cell in one.cells):
        ET.SubElement(case, "error", message=why, type="failed").text = why
    elif len(one.missing) == len(one.cells):
        ET.SubElement(case, "skipped", message=why)
    cell = one.figure
    shown = [] if cell is None else [f"{campaign.get('metric') or 'value'}: {figure(one)} {unit(campaign)}"]
    flags = sorted({flag for each in one.cells for flag in each["flags"]})
    shown += [f"flags: {', '.join(flags)}"] if flags else []
    shown += [f"verdict: {why}"] if one.verdict is not None else []
    if shown:
        ET.SubElement(case, "system-out").text = printable(" | ".join(shown))


def _count(element: ET.Element, cases: Sequence[ET.Element]) -> None:
    """The counts that parsers sum up, on a suite or on all of them."""
    children = {"failures": "failure", "errors": "error"}
    # In the schema that most parsers follow, Jenkins' own, all suites together have no such count.
    children |= {"skipped": "skipped"} if element.tag == "testsuite" else {}
    for attribute, child in children.items():
        element.set(attribute, str(sum(case.find(child) is not None for case in cases)))
    element.set("tests", str(len(cases)))
    element.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _timestamp(campaign: JsonObject) -> str:
    return datetime.fromtimestamp(campaign["created_at"], UTC).strftime("%Y-%m-%dT%H:%M:%S")
