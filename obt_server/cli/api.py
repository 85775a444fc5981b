"""What commands share that ask a running server: where it is, the token, and how answers are printed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from obt_agent.printable import printable
from obt_server.cli.options import UsageError
from obt_server.client import ApiError, Client

DEFAULT_URL: Final = "http://127.0.0.1:8881"
URL_VARIABLE: Final = "OBT_SERVER_URL"
TOKEN_VARIABLE: Final = "OBT_SERVER_TOKEN"  # noqa: S105 -- the variable's name
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
Work = Callable[[Client, argparse.Namespace], Awaitable[int]]


def add_api_command(commands: Any, name: str, text: str, work: Work) -> argparse.ArgumentParser:
    """Add a subcommand that asks a running server."""
    # No abbreviations: "--token SECRET" would be taken for the file, after everybody could read it.
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE) or DEFAULT_URL,
        metavar="URL",
        help=f"the server (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    # Never the token itself: every user of a machine sees the arguments of its programs.
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file that holds an API token (default: the token in ${TOKEN_VARIABLE})",
    )
    parser.add_argument("--json", action="store_true", help="print the server's answer as JSON")
    parser.set_defaults(command=lambda options: asyncio.run(_ask(options, work)))
    return parser


async def _ask(options: argparse.Namespace, work: Work) -> int:
    token = _token(options.token_file)
    host = urlsplit(options.url).hostname or ""
    try:
        async with Client(options.url, token, trust_env=host not in _LOOPBACK) as client:
            return await work(client, options)
    except ApiError as error:
        raise UsageError(f"{error.kind}: {error.message}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(f"{options.url} does not answer: {error}") from error


def _token(file: Path | None) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text("utf-8")
    token = token.strip()
    if not token or not token.isascii() or len(token.split()) != 1:
        raise UsageError(
            f"an API token is needed: in ${TOKEN_VARIABLE}, or a file with --token-file "
            "(obt-server operators token makes one)"
        )
    return token


def part(text: str) -> str:
    """Text as a part of an address."""
    return quote(text, safe="")


def print_answer(
    options: argparse.Namespace, answer: Any, rows: Callable[[], Iterable[Sequence[str]]]
) -> None:
    """Print the answer as JSON, or its rows in columns; the first row is the heading."""
    if options.json:
        print(json.dumps(answer, indent=1))
        return
    # Names come from machines: what a terminal would obey is made visible.
    table = [[printable(cell) for cell in row] for row in rows()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(value: int | None) -> str:
    """Bytes for a person, as Ollama writes them."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004 -- of SI
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def short(digest: str | None) -> str:
    """A digest's beginning, as Ollama shows it."""
    return "-" if digest is None else digest[:12]
