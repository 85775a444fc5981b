"""``obt-server status``: whether the server of these settings is ready, asked on its own machine.

It takes the settings' file and variables, not the options of ``obt-server run``: for the health check of a
container, where there are no others.
"""

from __future__ import annotations

import argparse
import http.client
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.config.problems import WrongConfig
from obt_agent.config.urls import is_dialable
from obt_agent.errors import ConfigError, StorageFailed
from obt_agent.text_output import print_json
from obt_server.cli.options import UsageError, add_database, load_settings
from obt_server.config.schema import ListenSection

_PATH: Final = "/readyz"
# The server gives its database 5 s.
_WITHIN_S: Final = 8.0


class _NotReadyError(Exception):
    """It does not answer, or not well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=_status)
    parser.epilog = "exit status: 0 ready, 1 not"
    add_database(parser)
    add_options(parser, JSON_OPTION)
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing: for the health check of a container"
    )


def _status(options: argparse.Namespace) -> int:
    try:
        config = load_settings(options).config
        listen = config.listen
        where = _where(listen)
        problem = None
        try:
            _ask(listen)
        except _NotReadyError as error:
            problem = str(error)
    except (UsageError, WrongConfig):
        # Docker knows no other answers than 0 and 1, whatever is wrong.
        if options.quiet:
            return 1
        raise
    if not options.quiet:
        _say(where, problem, config.database.address, as_json=options.json)
    return 0 if problem is None else 1


def _say(where: str, problem: str | None, database: str, *, as_json: bool) -> None:
    lines, listed = _replicas(database)
    if as_json:
        print_json({"url": where, "ready": problem is None, "problem": problem, "replicas": listed})
        return
    print(f"ready at {where}" if problem is None else f"not ready at {where}: {problem}")
    for line in lines:
        print(line)


def _replicas(database: str) -> tuple[Sequence[str], Sequence[Mapping[str, Any]] | None]:
    """Return what a person and what a program reads of the servers on a database; None: not known."""
    if "://" not in database:
        return (), ()
    # With what else it needs: most have an SQLite file, and the check of a container is run often.
    from obt_server.cli import replica_list  # noqa: PLC0415 - see above

    try:
        found = replica_list.replicas_at(database)
    # Whether this server is ready is known all the same.
    except (ConfigError, StorageFailed) as error:
        return (f"replicas: {error.message}",), None
    return [replica_list.as_line(one) for one in found], [replica_list.as_json(one) for one in found]


def _where(listen: ListenSection) -> str:
    """The address to dial. Raise UsageError."""
    if not listen.port:
        raise UsageError(
            "listen.port is 0, any free one: which one it is stands in the server's output alone"
        )
    host = _dialled(listen)
    return f"{'https' if _has_tls(listen) else 'http'}://{f'[{host}]' if ':' in host else host}:{listen.port}"


def _dialled(listen: ListenSection) -> str:
    if is_dialable(listen.host):
        return listen.host.strip("[]")
    # Everywhere: on this machine, too.
    return "::1" if ":" in listen.host else "127.0.0.1"


def _has_tls(listen: ListenSection) -> bool:
    return listen.tls_self_signed or listen.tls_cert_file is not None


def _ask(listen: ListenSection) -> None:
    connection = _connection(listen)
    try:
        # By its address: the two probes answer under any name.
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        text = answer.read(100).decode("ascii", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise _NotReadyError(str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        raise _NotReadyError(f"it answers {answer.status} {text}")


def _connection(listen: ListenSection) -> http.client.HTTPConnection:
    host = _dialled(listen)
    if not _has_tls(listen):
        return http.client.HTTPConnection(host, listen.port, timeout=_WITHIN_S)
    # Nothing secret is said, and the answer is believed as far as this machine is: whose certificate it is,
    # and whether it has ended, is for those who come from elsewhere.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, listen.port, timeout=_WITHIN_S, context=context)
