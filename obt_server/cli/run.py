"""``obt-server run``: the reference application."""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import ipaddress
import sys
from pathlib import Path
from typing import Final

from obt_agent.config.urls import is_dialable
from obt_agent.log_setup import setup as log_setup
from obt_agent.system.event_loop import loop_factory
from obt_server import app as application
from obt_server.allocator import keep_large_blocks_apart
from obt_server.auth.origin import parse_authority
from obt_server.auth.server_key import ServerKeys, server_keys
from obt_server.cli.bus_options import check_bus, nats_bus
from obt_server.cli.first_password import FIRST_OPERATOR, given_first_password, make_first_operator
from obt_server.cli.options import UsageError, add_database, load_settings, port, positive
from obt_server.cli.tls_files import check_tls_files, make_certificate
from obt_server.config.bus_address import bus_addresses
from obt_server.config.load import SERVER
from obt_server.config.schema import ServerOptions
from obt_server.gateway import GatewaySettings
from obt_server.hub import HubSettings
from obt_server.log_limit import limit_lines
from obt_server.serve import configure
from obt_server.store import AgentQuota
from obt_server.store.retention import RetentionSettings

SWITCH_S: Final = 0.001
"""How long a thread may compute before another that waits has its turn."""
DRAIN_DIALS_PER_S: Final = 100.0
"""Agents of a replica that stops, at the others: each dial costs a handshake and a transaction."""

_DEFAULTS: Final = ServerOptions()
DEFAULT_PORT: Final = _DEFAULTS.listen.port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(work=run)
    add_database(parser)
    # Without defaults: what is not given here is looked for in variables and the file (``completed``).
    parser.add_argument("--host", help=f"address to listen on (default: {_DEFAULTS.listen.host})")
    parser.add_argument("--port", type=port, help=f"port (default: {DEFAULT_PORT})")
    _add_tls(parser)
    _add_bus(parser)
    parser.add_argument(
        "--behind-proxy",
        nargs="?",
        const="127.0.0.1",
        metavar="ADDRESSES",
        help="a proxy in front does TLS; X-Forwarded-For and -Proto of these addresses are believed "
        "(default when given alone: %(const)s)",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        type=_host,
        metavar="NAME",
        help="a name or address that browsers and agents reach this server by; may be repeated",
    )
    parser.add_argument(
        "--root-path",
        type=_root_path,
        metavar="/PATH",
        help="the path under which a proxy serves this server, where it has no name of its own; with "
        "--behind-proxy, X-Forwarded-Prefix names it too",
    )
    parser.add_argument(
        "--agent-results-mib",
        type=positive,
        metavar="MIB",
        help="results that are kept of one agent (default: "
        f"{_DEFAULTS.agents.max_results_bytes >> 20}); it keeps what is refused",
    )
    parser.add_argument(
        "--agent-unasked-mib",
        type=positive,
        metavar="MIB",
        help="of those, results of jobs that this server does not know: it lost its database, or the agent "
        f"invents them (default: {_DEFAULTS.agents.max_unasked_results_bytes >> 20})",
    )
    parser.add_argument(
        "--first-password-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the password that the first start gives the operator {FIRST_OPERATOR} (default: a "
        "random one)",
    )
    parser.add_argument(
        "--gateway",
        action=argparse.BooleanOptionalAction,
        help="let programs with a token of scope inference use the machines' models below /ollama, with "
        "Ollama's and OpenAI's clients, within each owner's policy (default: no)",
    )
    _add_log(parser)


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", choices=_choices("log.level"), help="least important level (info)")
    parser.add_argument("--log-format", choices=_choices("log.format"), help="form of the log (auto)")
    parser.add_argument(
        "--log-requests", action=argparse.BooleanOptionalAction, help="log each request (default: no)"
    )


def _add_bus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bus",
        metavar="ADDRESS",
        help="NATS by which several server processes on one PostgreSQL reach each other: nats://HOST:4222 or "
        "tls://HOST:4222, several with commas between them (default: one process alone)",
    )
    parser.add_argument(
        "--bus-credentials-file",
        type=Path,
        metavar="FILE",
        help="a file that NATS knows this server by: USER:PASSWORD on one line, a token, or a .creds file",
    )
    parser.add_argument(
        "--bus-ca-file",
        type=Path,
        metavar="FILE",
        help="PEM file of the authorities that sign the certificate of NATS (default: the system's)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM file of the certificate chain")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file of its key")
    parser.add_argument(
        "--tls-self-signed",
        action=argparse.BooleanOptionalAction,
        help="make a certificate and its key beside the database, and keep the key: agents know it from "
        "their join tokens, browsers ask once (default: no)",
    )
    parser.add_argument(
        "--next-tls-cert",
        type=Path,
        metavar="FILE",
        help="PEM file of the certificate that will replace --tls-cert: agents that pinned the present key "
        "learn the next one when they connect",
    )


def _choices(key: str) -> tuple[str, ...]:
    return SERVER.keys[key].choices


def _host(text: str) -> str:
    # Whoever copies the browser's address has a scheme and a port in it, which would never match.
    parsed = parse_authority(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if parsed is None or parsed.port is not None:
        raise argparse.ArgumentTypeError(f"{text!r}: write a name or an address alone, like obt.example.org")
    if not is_dialable(parsed.host):
        raise argparse.ArgumentTypeError(
            f"nobody can dial {text}: give the name or address that browsers and agents reach this server by"
        )
    return text


def _root_path(text: str) -> str:
    # "/obt/" and "obt" are meant as "/obt"; an empty text or "/" is no path of its own.
    path = text and "/" + text.strip("/")
    if path and not application.ROOT_PATH.fullmatch(path):
        raise argparse.ArgumentTypeError(f"{text!r}: write a path like /obt")
    return path


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    options = completed(options)
    check(options)
    if options.tls_self_signed:
        own = (options.host,) if _is_specific(options.host) else ()
        make_certificate(options, (*options.allowed_host, *own, "localhost"))
    output = log_setup.configure(
        log_setup.LogSettings(level=options.log_level, format=options.log_format, identifier="obt-server")
    )
    limit_lines()
    keep_large_blocks_apart()
    # While a thread of the database computes, the event loop waits so long for the interpreter after each of
    # its system calls: the default of 5 ms counts several times in each request.
    sys.setswitchinterval(SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(options))
    finally:
        # Counts of what was folded, and the journal's socket.
        output.close()


def completed(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options with what was not given from variables, the file and the defaults.

    Raises:
        WrongConfig: one of the settings cannot be used.
    """
    loaded = load_settings(options)
    for notice in loaded.notices:
        print(f"obt-server: {notice}", file=sys.stderr)
    config = loaded.config
    cert, key = config.listen.tls_cert_file, config.listen.tls_key_file
    following, first = config.listen.next_tls_cert_file, config.operators.first_password_file
    return argparse.Namespace(
        database=config.database.address,
        host=config.listen.host,
        port=config.listen.port,
        tls_cert=_path(cert),
        tls_key=_path(key),
        tls_self_signed=config.listen.tls_self_signed,
        next_tls_cert=_path(following),
        behind_proxy=config.listen.behind_proxy,
        allowed_host=list(config.listen.allowed_hosts),
        root_path=config.listen.root_path,
        drain_notice_s=config.listen.drain_notice_s,
        agent_results_bytes=config.agents.max_results_bytes,
        agent_unasked_bytes=config.agents.max_unasked_results_bytes,
        gateway=config.gateway.enabled,
        first_password_file=_path(first),
        bus=bus_addresses(config.bus.address),
        bus_credentials_file=_path(config.bus.credentials_file),
        bus_ca_file=_path(config.bus.ca_file),
        retention=RetentionSettings(
            config.retention.results_days, config.retention.jobs_days, config.retention.tokens_days
        ),
        log_level=config.log.level,
        log_format=config.log.format,
        log_requests=config.log.requests,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(options: argparse.Namespace) -> None:
    """Refuse what would let passwords and prompts travel in the open.

    Raises:
        UsageError: what is missing, and what to give.
    """
    tls = options.tls_cert is not None
    if tls != (options.tls_key is not None):
        raise UsageError("--tls-cert and --tls-key go together")
    if tls:
        check_tls_files(options.tls_cert, options.tls_key)
    if options.tls_self_signed and tls:
        raise UsageError("--tls-self-signed makes certificate and key: leave out --tls-cert and --tls-key")
    tls = tls or options.tls_self_signed
    if options.next_tls_cert is not None and not tls:
        raise UsageError("--next-tls-cert is what follows --tls-cert or --tls-self-signed: give that, too")
    check_bus(options)
    # Passwords, prompts and results cross the wire.
    exposed = not is_loopback(options.host)
    if exposed and not tls and options.behind_proxy is None:
        raise UsageError(
            f"{options.host} is reached from other machines: give --tls-cert and --tls-key, "
            "--tls-self-signed, or --behind-proxy when a proxy in front does TLS"
        )
    # Requests with another Host are refused, against DNS rebinding: the server must know its own names.
    if (
        (exposed or options.behind_proxy is not None)
        and not options.allowed_host
        and not _is_specific(options.host)
    ):
        raise UsageError("give --allowed-host NAME: the name that browsers and agents reach this server by")


def _is_specific(host: str) -> bool:
    """Whether a browser may well name this address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not address.is_unspecified and not address.is_loopback


def settings_for(options: argparse.Namespace) -> application.AppSettings:
    """The application's settings of the arguments.

    Raises:
        UsageError: a certificate cannot be read.
    """
    https = options.tls_cert is not None or options.behind_proxy is not None
    keys = _keys(options)
    return application.AppSettings(
        database=options.database,
        # The address that it listens on is one that it may be reached by.
        hosts=(*options.allowed_host, options.host),
        https=https,
        root_path=options.root_path,
        forwarded_prefix=options.behind_proxy is not None,
        hub=HubSettings(
            version=application.version(),
            pins=keys.shown,
            # With a notice others go on meanwhile, and are not to be dialled by all agents in one second.
            drain_dials_per_s=DRAIN_DIALS_PER_S if options.drain_notice_s else 0.0,
        ),
        quota=AgentQuota(result_bytes=options.agent_results_bytes, unasked_bytes=options.agent_unasked_bytes),
        retention=options.retention,
        request_log=options.log_requests,
        gateway=GatewaySettings() if options.gateway else None,
        join_pins=keys.in_tokens,
        bus=nats_bus(options) if options.bus else None,
    )


def _keys(options: argparse.Namespace) -> ServerKeys:
    # Without TLS of its own, what agents see is the proxy's certificate, which nobody here knows.
    if options.tls_cert is None:
        return ServerKeys()
    try:
        return server_keys(options.tls_cert, options.tls_key, options.next_tls_cert)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


async def _serve(options: argparse.Namespace) -> int:
    settings = settings_for(options)
    parts = application.build(settings)
    try:
        # For `tokens join`, which is a process of its own.
        await parts.storage.keep_join_pins(settings.join_pins)
        # Before anything listens: a start that cannot make its operator is none.
        password = await given_first_password(parts.operators, options.first_password_file)
        server = configure(
            parts,
            host=options.host,
            port=options.port,
            cert=options.tls_cert,
            key=options.tls_key,
            behind_proxy=options.behind_proxy,
            notice_s=options.drain_notice_s,
        )
        # The address is printed when it can be used, and not at all when the start fails.
        serving = asyncio.create_task(server.serve(), name="obt-server")
        listening = asyncio.create_task(server.listening.wait(), name="obt-server listening")
        await asyncio.wait([serving, listening], return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            # What a start leaves (modules, routes, mappers) stays for good. Looked through again by each full
            # collection, it stopped the event loop for 120 ms every few seconds under load.
            gc.collect()
            gc.freeze()
            # A whole collection takes 20 to 60 ms of everybody's time; under attack there was one every 3 s.
            # Little is left in cycles, so that one a tenth as often is enough.
            gc.set_threshold(2000, 10, 100)
            # Only now: a password that is shown by a start that fails is kept for one that shows none.
            await make_first_operator(parts.operators, password, options.first_password_file)
            print(f"obt-server {application.version()} at {_url(options, server.port)}", flush=True)
        listening.cancel()
        try:
            await serving
        except OSError as error:
            raise _cannot_listen(options, error) from error
        return 0 if server.started else 1
    finally:
        parts.database.close()


def _cannot_listen(options: argparse.Namespace, error: OSError) -> OSError:
    """Say in one line why there is no server, and what to do about it."""
    remedies = {
        errno.EADDRINUSE: f"another program listens there: stop it, or give another --port "
        f"(ss -ltnp 'sport = :{options.port}' shows which one it is)",
        errno.EACCES: "ports below 1024 are the system's: give another --port, or let a proxy have that one",
        errno.EADDRNOTAVAIL: "this machine has no such address: give another --host",
    }
    remedy = remedies.get(error.errno or 0, error.strerror or str(error))
    return OSError(f"cannot listen on {options.host} port {options.port}: {remedy}")


def _url(options: argparse.Namespace, port: int) -> str:
    """An address that a browser can open: not the one to listen on everywhere."""
    tls, host = options.tls_cert is not None, options.host
    if not is_dialable(host):
        # Behind a proxy, the names are the proxy's; what listens here is reached from this machine at least.
        host = options.allowed_host[0] if tls and options.allowed_host else "127.0.0.1"
    # An IPv6 address needs brackets in a URL.
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{'https' if tls else 'http'}://{host}:{port}/"
