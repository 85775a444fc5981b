"""``obt-server backup``: copy the database, also of a server that runs.

Copy the database into one file, as it is at one moment and checked, while the server goes on. Only its
owner can read the copy: it holds hashes of secrets, and all results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from obt_server.cli.database_file import file_of
from obt_server.cli.options import UsageError, add_database, positive
from obt_server.store import copies

_NAME: Final = "obt-server-{}.sqlite3"
_INSTEAD: Final = "back it up with: pg_dump --format=custom --file=FILE '{}'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_back_up)
    add_database(parser)
    parser.add_argument(
        "target",
        metavar="FILE",
        type=Path,
        help="a file that does not exist; or a folder, for a file with the time in its name",
    )
    parser.add_argument(
        "--keep",
        type=positive,
        metavar="N",
        help="with a folder: remove all but the newest N of those files there (default: keep all)",
    )


def _back_up(options: argparse.Namespace) -> int:
    target: Path = options.target
    in_folder = target.is_dir()
    if options.keep is not None and not in_folder:
        raise UsageError(f"--keep is for a folder, and {target} is none")
    if in_folder:
        target /= _NAME.format(copies.stamp())
    size = copies.back_up(file_of(options, _INSTEAD), target)
    print(f"{target}: {size} bytes")
    # After the new one is whole: a backup that fails takes none of the others away.
    if options.keep is not None:
        for gone in copies.keep_newest(target.parent, _NAME.format("*"), options.keep):
            print(f"{gone}: removed")
    return 0
