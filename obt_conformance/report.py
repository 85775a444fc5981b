"""Findings as text for people and as JSON for programs, and the exit code. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from obt_conformance.checks import CheckResult, by_rule, rule_verdict


def as_text(findings: Sequence[CheckResult]) -> str:
    """A line a rule, and one for each check under it; the counts at the end."""
    lines = []
    for rule, found in by_rule(findings).items():
        lines.append(f"{rule_verdict(found):<10}  {rule}")
        lines += [
            f"            {finding.verdict}: {finding.title} ({finding.seconds:.1f} s): {finding.seen}"
            for finding in found
        ]
    return "\n".join([*lines, "", _counts(findings)])


def _counts(findings: Sequence[CheckResult]) -> str:
    counts = Counter(rule_verdict(found) for found in by_rule(findings).values())
    return f"{counts['pass']} rules kept, {counts['fail']} broken, {counts['not tested']} not tested"


def as_json(findings: Sequence[CheckResult]) -> str:
    """``{"rules": {NAME: {"verdict", "checks": [{"title", "verdict", "seen", "seconds"}]}}}``."""
    rules = {
        rule: {
            "verdict": rule_verdict(found),
            "checks": [
                {
                    "title": finding.title,
                    "verdict": finding.verdict,
                    "seen": finding.seen,
                    "seconds": round(finding.seconds, 3),
                }
                for finding in found
            ],
        }
        for rule, found in by_rule(findings).items()
    }
    return json.dumps({"rules": rules}, indent=1, ensure_ascii=False)


def exit_code(findings: Sequence[CheckResult]) -> int:
    """0: nothing broken and something kept; 1: a rule is broken; 3: nothing could be tested."""
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return 1
    return 0 if "pass" in verdicts else 3
