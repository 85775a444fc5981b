"""What commands share that ask a running server: where it is, the token, and how answers are printed."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from obt_agent.argument_parser import JSON_OPTION, OptionTable, PlainArgumentParser, add_options
from obt_agent.config.urls import is_dialable
from obt_agent.printable import printable
from obt_agent.text_output import print_json
from obt_server.cli.options import UsageError
from obt_server.client import ApiError, Client, JsonObject

DEFAULT_URL: Final = "http://127.0.0.1:8881"
URL_VARIABLE: Final = "OBT_SERVER_URL"
TOKEN_VARIABLE: Final = "OBT_SERVER_TOKEN"  # noqa: S105 -- the variable's name
# A server that restarts is back sooner; a job that waits for hours must outlive that.
BACK_WITHIN_S: Final = 300.0
AGAIN_AFTER_S: Final = 1.0
# What a server answers that is about to stop, and a proxy whose server is away.
_AWAY: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
Work = Callable[[Client, argparse.Namespace], Awaitable[int]]


def api_options() -> OptionTable:
    """The options of everything that asks a running server."""
    return {
        "--url": {
            "default": os.environ.get(URL_VARIABLE) or DEFAULT_URL,
            "metavar": "URL",
            "help": f"the server (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
        },
        # Never the token itself: every user of a machine sees the arguments of its programs.
        "--token-file": {
            "type": Path,
            "metavar": "FILE",
            "help": f"a file that holds an API token (default: the token in ${TOKEN_VARIABLE})",
        },
        **JSON_OPTION,
    }


def add_api_group(parser: PlainArgumentParser) -> Any:
    """Make the command a group of subcommands that ask a running server."""
    return parser.add_subparsers(metavar="COMMAND", required=True, leading=api_options())


def add_api_command(commands: Any, name: str, text: str, work: Work) -> PlainArgumentParser:
    """Add a subcommand to a group of such."""
    parser: PlainArgumentParser = commands.add_parser(name, help=text)
    add_options(parser, api_options())
    parser.set_defaults(work=lambda options: asyncio.run(_ask(options, work)))
    return parser


def add_id_command(commands: Any, name: str, text: str, work: Work) -> PlainArgumentParser:
    """Add a subcommand about one thing, which its id names."""
    parser = add_api_command(commands, name, text, work)
    parser.add_argument("id", metavar="ID")
    return parser


async def _ask(options: argparse.Namespace, work: Work) -> int:
    host = _host(options.url)
    token = _token(options.token_file)
    try:
        async with Client(options.url, token, trust_env=host not in _LOOPBACK) as client:
            return await work(client, options)
    except ApiError as error:
        raise UsageError(f"{error.kind}: {error.message}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NoAnswer(f"{options.url} does not answer: {error}") from error


def _host(url: str) -> str:
    """Return the host of the server's address. Raise UsageError where nobody could ask there."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # brackets that are not closed
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{url} is no address of a server: write one like {DEFAULT_URL}")
    if not is_dialable(host):
        raise UsageError(f"nobody can dial {host}: write the name or address of the server's machine")
    return host


class NoAnswer(OSError):
    """The server cannot be reached, or went away and did not come back in time."""


def _token(file: Path | None) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text("utf-8")
    token = token.strip()
    if not token or not token.isascii() or len(token.split()) != 1:
        raise UsageError(
            f"an API token is needed: in ${TOKEN_VARIABLE}, or a file with --token-file "
            "(obt-server operators token makes one)"
        )
    return token


async def until_over(
    client: Client,
    event: str,
    path: str,
    *,
    over: Callable[[JsonObject], bool] = lambda one: one["state"] != "running",
    on_news: Callable[[JsonObject], None] = lambda _news: None,
    on_found: Callable[[JsonObject], None] = lambda _found: None,
) -> JsonObject:
    """Wait by the server's news until something is over; a server that restarts meanwhile is waited for.

    Args:
        client: the server.
        event: the kind of news about it.
        path: where it is; its last part is its id.
        over: whether it is, by what stands at ``path``.
        on_news: hears each piece of news about it.
        on_found: hears what stands at ``path`` where that may be newer than the news: when these begin, or
            begin again, and at the end.

    Raises:
        ApiError, aiohttp.ClientError, TimeoutError: no server answered for ``BACK_WITHIN_S``, or it refused.
    """
    heard = time.monotonic()
    while True:
        try:
            async for name, data in client.events("GET", "/events"):
                heard = time.monotonic()
                mine = name == event and path.endswith(f"/{part(data['id'])}")
                if mine:
                    on_news(data)
                # ``current`` comes after all that runs: what ended before has no event of its own.
                if name == "current" or (mine and data["state"] != "running"):
                    found: JsonObject = await client.get(path)
                    on_found(found)
                    if over(found):
                        return found
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            if not _is_away(error) or time.monotonic() - heard > BACK_WITHIN_S:
                raise
        await asyncio.sleep(AGAIN_AFTER_S)


def _is_away(error: Exception) -> bool:
    """Whether it is worth asking again: a stream that a stopping server ends has begun well."""
    return not isinstance(error, ApiError) or error.status in _AWAY or error.kind == "draining"


def counted(counts: JsonObject) -> str:
    """``3 done, 1 failed``: the states that there are."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def part(text: str) -> str:
    """Text as a part of an address."""
    return quote(text, safe="")


def print_answer(
    options: argparse.Namespace, answer: Any, rows: Callable[[], Iterable[Sequence[str]]]
) -> None:
    """Print the answer as JSON, or its rows in columns; the first row is the heading."""
    if options.json:
        print_json(answer)
        return
    for line in table(rows()):
        print(line)


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; the first row is the heading."""
    # Names come from machines: what a terminal would obey is made visible.
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


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
