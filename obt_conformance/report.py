"""Findings as text for people and as JSON for programs, and the exit code. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from obt_conformance.checks import CheckResult, by_rule, rule_verdict


def as_text(results: Sequence[CheckResult]) -> str:
    """A line a rule, and one for each check under it; the counts at the end."""
    lines = []
    for rule, found in by_rule(results).items():
        lines.append(f"{rule_verdict(found):<10}  {rule}")
        lines += [
            f"            {result.verdict}: {result.title} ({result.seconds:.1f} s): {result.detail}"
            for result in found
        ]
    return "\n".join([*lines, "", _counts(results)])


def _counts(results: Sequence[CheckResult]) -> str:
    counts = Counter(rule_verdict(found) for found in by_rule(results).values())
    return f"{counts['pass']} rules kept, {counts['fail']} broken, {counts['not tested']} not tested"


def as_json(results: Sequence[CheckResult]) -> str:
    """``{"rules": {NAME: {"verdict", "checks": [{"title", "verdict", "detail", "seconds"}]}}}``."""
    rules = {
        rule: {
            "verdict": rule_verdict(found),
            "checks": [
                {name: value for name, value in vars(result).items() if name != "rule"} for result in found
            ],
        }
        for rule, found in by_rule(results).items()
    }
    return json.dumps({"rules": rules}, indent=1, ensure_ascii=False)


def exit_code(results: Sequence[CheckResult]) -> int:
    """0: nothing broken and something kept; 1: a rule is broken; 3: nothing could be tested."""
    # "Nothing could be tested" must not pass for a success in somebody's pipeline.
    verdicts = {result.verdict for result in results}
    if "fail" in verdicts:
        return 1
    return 0 if "pass" in verdicts else 3
