"""``obt-server copy``: copy the database from SQLite into an empty one on PostgreSQL.

Copy all tables in one transaction, and compare the number of rows of each. The server must be stopped. The
SQLite file stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sqlalchemy import URL

from obt_server.cli.options import UsageError
from obt_server.store import transfer
from obt_server.store.address import parse, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_copy)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="ADDRESS", help="a file, or sqlite:///FILE"
    )
    parser.add_argument(
        "--to", dest="target", required=True, metavar="ADDRESS", help="postgresql+psycopg://USER@HOST/NAME"
    )


def _copy(options: argparse.Namespace) -> int:
    source, target = parse(options.source), parse(options.target)
    if not isinstance(source, Path) or not isinstance(target, URL):
        raise UsageError(
            "copy goes from SQLite to PostgreSQL: --from FILE --to postgresql+psycopg://USER@HOST/NAME"
        )
    copied = transfer.copy_to_postgresql(source, target)
    for name, count in copied.items():
        print(f"{name.removeprefix('obt_')}: {count}")
    print(f"{shown(target)}: {sum(copied.values())} rows of {source}")
    return 0
