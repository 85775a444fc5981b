"""``obt-server restore``: put a backup in place of the database.

Put a backup in place of the database. The server must be stopped. The database of before is kept beside it,
under another name. What happened since the backup is forgotten: machines that enrolled or changed their
credential since must enrol again, and tokens that were revoked since are valid again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from obt_server.cli.database_file import file_of
from obt_server.cli.options import add_database
from obt_server.store import maintenance

_INSTEAD: Final = (
    "stop the server, and restore with: "
    "pg_restore --clean --if-exists --single-transaction --dbname='{}' FILE"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_restore)
    add_database(parser)
    parser.add_argument("source", metavar="FILE", type=Path, help="what obt-server backup made")


def _restore(options: argparse.Namespace) -> int:
    database = file_of(options, _INSTEAD)
    kept = maintenance.restore(database, options.source)
    print(f"{database} is {options.source} now")
    if kept is not None:
        print(f"what was there before: {kept}")
    return 0
