"""What the units of the Debian package give the server, for the commands of the same machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from obt_server.cli.options import OPTION_OF_KEY
from obt_server.config.load import SERVER

FOLDER: Final = "/var/lib/obt-server"
SINGLE_DATABASE: Final = f"{FOLDER}/obt.sqlite3"
"""What ``obt-server.service`` says, before its file."""
REPLICAS_DATABASE: Final = "postgresql+psycopg:///obt"
"""What ``obt-server@PORT.service`` says, before its files."""
_DATABASE: Final = "OBT_SERVER_DATABASE"
_PORT: Final = "OBT_SERVER_LISTEN_PORT"
_OPTIONS: Final = "OPTIONS"
_SETTINGS: Final = "etc/obt-server"
_ENABLED: Final = ("etc/systemd/system", "*.wants/obt-server*.service")
_RUNNING: Final = ("run/systemd/units", "invocation:obt-server*.service")
"""Links that systemd keeps there, one for each unit that runs."""
_UNIT: Final = re.compile(r"(?:invocation:)?obt-server(?:@([0-9]+))?\.service")
_LINE: Final = re.compile(
    r"""^[ \t]*([^\s\#;=][^=\n]*?)[ \t]*=       # neither a comment nor a line without a name
    ((?:[ \t]*(?:'[^']*'|"(?:\\.|[^"\\])*"))*   # in quotes, which may hold ends of lines
    (?:\\.|[^\\\n])*)                           # without them: until the line's end, unless that is escaped
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_QUOTED: Final = re.compile(r"""[ \t]*(?:'([^']*)'|"((?:\\.|[^"\\])*)")""", re.DOTALL)


_SHORT: Final = {key: name for name, key in SERVER.short_names.items()}


def _variable(key: str) -> str:
    return _SHORT.get(key, f"{SERVER.prefix}{key.upper().replace('.', '_')}")


_SELF_SIGNED: Final = OPTION_OF_KEY["listen.tls_self_signed"]
_OF_OPTION: Final = {
    OPTION_OF_KEY[key]: _variable(key)
    for key in (
        *("database.address", "listen.host", "listen.port", "listen.tls_cert_file", "listen.tls_key_file"),
    )
}


def variables(text: str) -> dict[str, str]:
    """Return the variables of a file as ``EnvironmentFile=`` of systemd reads it: nothing is expanded."""
    return {found[1]: _value(found[2]) for found in _LINE.finditer(text.replace("\r", "\n"))}


def _value(text: str) -> str:
    value, end = "", 0
    while found := _QUOTED.match(text, end):
        # Between double quotes a backslash before any other character stands for itself.
        inside = re.sub(r'\\(?:\n|(["\\`$]))', lambda one: one[1] or "", found[2] or "")
        value += found[1] or inside
        end = found.end()
    pieces = re.findall(r"\\.|.", text[end:].lstrip(" \t"), re.DOTALL)
    while pieces and pieces[-1].isspace():
        pieces.pop()
    return value + "".join("" if one == "\\\n" else one[-1] for one in pieces)


def given(command: str, environ: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return the variables that a command gets where its caller has not set them.

    For ``status`` all settings of the server that it asks, which is the replica at the port of the
    environment, or else the single server or the first replica; for the others the database.
    """
    if command != "status":
        return {_DATABASE: database(root)}
    single, replicas = _units(root)
    port = environ.get(_PORT) or (None if single or not replicas else min(replicas, key=int))
    if port is None or (single and port not in replicas):
        return _settings(_of_single(root))
    return {**_settings(_of_replica(root, port)), _PORT: port}


def _settings(found: Mapping[str, str]) -> dict[str, str]:
    """Leave what are settings. Options win over variables, as they do for the server."""
    settings = {name: value for name, value in found.items() if name.startswith(SERVER.prefix)}
    return {**settings, **_of_options(shlex.split(found.get(_OPTIONS, "")))}


def _of_options(words: Sequence[str]) -> dict[str, str]:
    """Return as variables those options that say which database there is, and where the server answers."""
    settings = {}
    for word, value in zip(words, (*words[1:], ""), strict=False):
        option, equals, inside = word.partition("=")
        if option in _OF_OPTION:
            settings[_OF_OPTION[option]] = inside if equals else value
        elif option == _SELF_SIGNED:
            settings[_variable("listen.tls_self_signed")] = "true"
    return settings


def database(root: Path = Path("/")) -> str:
    """Return the address of the database that the servers of this machine use.

    Of the units that run; where none runs, of those that are enabled. Replicas come before a single server:
    its file is what they were copied from. Where there is no unit, the database is what the settings of
    replicas name, else the single server's.
    """
    single, replicas = _units(root)
    if replicas:
        return _settings(_of_replica(root, min(replicas, key=int)))[_DATABASE]
    if single:
        return _settings(_of_single(root))[_DATABASE]
    return _read(root, "replicas.env").get(_DATABASE, SINGLE_DATABASE)


def _units(root: Path) -> tuple[bool, set[str]]:
    """Return whether there is the unit of a single server, and the ports of replicas."""
    for folder, pattern in (_RUNNING, _ENABLED):
        found = [one[1] for path in (root / folder).glob(pattern) if (one := _UNIT.fullmatch(path.name))]
        if found:
            return None in found, {port for port in found if port is not None}
    return False, set()


def _of_single(root: Path) -> dict[str, str]:
    return {_DATABASE: SINGLE_DATABASE, **_read(root, "options.env")}


def _of_replica(root: Path, port: str) -> dict[str, str]:
    # Later files win, as in the unit.
    return {
        _DATABASE: REPLICAS_DATABASE,
        **_read(root, "replicas.env"),
        **_read(root, f"replica-{port}.env"),
    }


def _read(root: Path, name: str) -> Mapping[str, str]:
    try:
        text = (root / _SETTINGS / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return variables(text)
