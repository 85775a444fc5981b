"""``obt-server check``: what is wrong with a database or a backup, if anything.

Read a database whole, also of a server that runs, and say what is wrong with it. Exit status 1 if anything
is.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Final

from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.text_output import print_json
from obt_server.cli.database_file import file_of
from obt_server.cli.options import add_database
from obt_server.store import maintenance

_INSTEAD: Final = "obt-server migrate --check looks at its tables, and pg_amcheck '{}' at its pages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_check)
    add_database(parser)
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="a backup (default: the server's database)"
    )
    add_options(parser, JSON_OPTION)


def _check(options: argparse.Namespace) -> int:
    path: Path = options.file or file_of(options, _INSTEAD)
    found = maintenance.examine(path)
    if options.json:
        print_json({"file": str(path), **asdict(found)})
    else:
        mib = {name: f"{getattr(found, name) / 2**20:.1f} MiB" for name in ("size", "unused", "wal", "free")}
        print(f"{path}: schema {found.schema}, {mib['size']}, of which {mib['unused']} are unused")
        print(f"log of writes: {mib['wal']}; free on the disk: {mib['free']}")
        print(", ".join(f"{table.removeprefix('obt_')}: {count}" for table, count in found.rows.items()))
        for problem in found.problems:
            print(f"PROBLEM: {problem}")
    return 1 if found.problems else 0
