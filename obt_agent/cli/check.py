"""``obt-agent check``: find what is wrong, and what to do. A running agent is not disturbed."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Final

from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config
from obt_agent.cli.options import add_config_options
from obt_agent.config.problems import WrongConfig
from obt_agent.doctor import configuration, run_checks
from obt_agent.doctor.findings import CheckReport, Finding
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.text_output import print_json
from obt_agent.version import full_version

_MARKS: Final = {"ok": "ok", "warning": "WARNING", "failure": "FAILURE", "skipped": "skipped"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "exit status: 0 nothing failed, 1 something did, 78 the configuration is wrong"
    parser.add_argument("--json", action="store_true", help="as JSON, with every value of the configuration")
    parser.add_argument("--quiet", action="store_true", help="only what is not well")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run all checks and print the findings."""
    # The findings say what is wrong; warnings of what is tried on the way would say it twice.
    configure(LogSettings(level="error", format="console"))
    try:
        loaded = load_config(args)
    except WrongConfig as error:
        _print(CheckReport(version=full_version(), findings=tuple(configuration.from_problems(error))), args)
        return exit_codes.CONFIG
    report = asyncio.run(run_checks.run_all(loaded, os.environ))
    _print(report, args)
    return exit_codes.FAILED if report.failed else exit_codes.OK


def _print(report: CheckReport, args: argparse.Namespace) -> None:
    if args.json:
        print_json(report)
        return
    for finding in report.findings:
        if not (args.quiet and finding.level in {"ok", "skipped"}):
            print(shown(finding))
    # Most keys have their defaults; what somebody set is what may be wrong.
    changed = [one for one in report.configuration if not one.origin.startswith("default")]
    if changed and not args.quiet:
        print("\nset here (obt-agent config show prints every key):")
        for one in changed:
            print(f"  {one.key}: {one.value}  # {one.origin}")
    print(f"\n{report.counts()}")


def shown(finding: Finding) -> str:
    """A finding for a person."""
    line = f"{_MARKS[finding.level]:<8} {finding.check:<20} {finding.message}"
    return f"{line}\n{'':<29} -> {finding.remedy}" if finding.remedy else line
