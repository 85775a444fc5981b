"""Load the configuration: defaults, then the file, then ``.env``, then the environment, then flags."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from obt_agent.config import environment, file, rules, urls
from obt_agent.config.keys import AGENT, PATHS, Key, Scheme, all_keys, nested
from obt_agent.config.origins import Origin, Setting, SourceReading
from obt_agent.config.problems import ConfigProblem, WrongConfig, shown
from obt_agent.config.schema import Config
from obt_agent.config.values import WrongValue, from_text
from obt_agent.system import owners, places


@dataclass(frozen=True, kw_only=True)
class ProcessContext:
    """What the process finds around it; a test gives another."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    working_dir: Path = field(default_factory=Path.cwd)
    terminal: bool = field(default_factory=environment.at_a_terminal)
    user: int = field(default_factory=owners.user)
    pid: int = field(default_factory=os.getpid)
    host_name: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, kw_only=True)
class LoadArguments:
    """How a configuration was asked for, so that the same can be asked again: the arguments of ``load``."""

    path: str | None = None
    flags: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    need_server: bool = False


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A valid configuration, where each value came from, and what the reader should be told.

    ``path`` is the file that was read, ``unread`` one that this user may not read, ``dotenv`` the ``.env``
    that something was taken from, ``request`` what ``load`` was given.
    """

    config: Config
    origins: Mapping[str, Origin]
    path: Path | None
    unread: Path | None = None
    dotenv: Path | None = None
    notices: tuple[str, ...] = ()
    request: LoadArguments = field(default_factory=LoadArguments)


def load(
    path: str | None = None,
    *,
    flags: Mapping[str, tuple[str, str]] | None = None,
    need_server: bool = False,
    may_be_missing: bool = False,
    surroundings: ProcessContext | None = None,
) -> LoadedConfig:
    """Load and check everything; nothing is used when anything is wrong.

    Args:
        path: the file that ``--config`` named.
        flags: dotted key to the flag's name and its text.
        need_server: a configuration without ``server.url`` will not do.
        may_be_missing: a file that was named and does not exist counts as empty.
        surroundings: environment, working directory, user and terminal; the process's own when omitted.

    Raises:
        WrongConfig: with every problem at once; the process exits 78.
    """
    around = surroundings or ProcessContext()
    found, named = file.find(path, around.environ)
    # A user who looks at the service's configuration gets the defaults and a note; the agent itself, and
    # whoever names a file, must not go on without it.
    may_read = found is None or os.access(found, os.R_OK)
    unread = None if named or need_server or may_read else found
    # Later ones win over earlier ones.
    readings = [
        _unread(unread) if unread else _file(found, may_be_missing=may_be_missing),
        _dotenv(around),
        environment.from_environment(around.environ),
        from_flags(flags or {}),
    ]
    problems = [problem for reading in readings for problem in reading.problems]
    settings = {one.key.name: one for reading in readings for one in reading.settings}
    settings |= _defaults(settings, around)
    finished = _finished(settings.values(), around, problems)
    # Values are checked one by one before this; what is left are rules between several of them.
    values = {name: setting.value for name, setting in finished.items()}
    config = msgspec.convert(nested(values), Config)
    problems += _broken(config, finished, found)
    if need_server and config.server.url is None and not any(one.key == "server.url" for one in problems):
        problems.append(_no_server(found))
    if problems:
        raise WrongConfig(sorted(problems, key=place))
    return LoadedConfig(
        config=config,
        origins={
            name: finished[name].origin if name in finished else Origin("default") for name in all_keys()
        },
        path=None if unread else found,
        unread=unread,
        dotenv=around.working_dir / ".env" if readings[1].settings else None,
        notices=tuple(notice for reading in readings for notice in reading.notices),
        request=LoadArguments(path=path, flags=flags or {}, need_server=need_server),
    )


def _unread(path: Path) -> SourceReading:
    return SourceReading(notices=(f"{path} may not be read by this user; the defaults are used",))


def _file(path: Path | None, *, may_be_missing: bool) -> SourceReading:
    if path is None or (may_be_missing and not path.exists()):
        return SourceReading()
    return file.read(path)


def _dotenv(around: ProcessContext) -> SourceReading:
    if environment.may_read_dotenv(
        around.environ, terminal=around.terminal, user=around.user, pid=around.pid
    ):
        return environment.from_dotenv(around.working_dir / ".env", around.user)
    return SourceReading()


def from_flags(flags: Mapping[str, tuple[str, str]], scheme: Scheme = AGENT) -> SourceReading:
    """Settings of a command line: by dotted key the flag's name and its text."""
    settings, problems = [], []
    for name, (flag, text) in flags.items():
        origin = Origin("flag", flag)
        try:
            key = _flag_key(name, scheme)
            settings.append(Setting(key, from_text(key, text), origin))
        except WrongValue as error:
            problems.append(ConfigProblem(where=str(origin), key=name, text=str(error)))
    return SourceReading(tuple(settings), tuple(problems))


def _flag_key(name: str, scheme: Scheme) -> Key:
    if name not in scheme.keys:
        raise WrongValue(file.unknown(name, scheme))
    return scheme.keys[name]


def _defaults(settings: Mapping[str, Setting], around: ProcessContext) -> dict[str, Setting]:
    """Return the defaults that depend on the machine."""
    keys = all_keys()
    made: dict[str, Setting] = {}
    if "agent.name" not in settings or not settings["agent.name"].value:
        # A host name may hold bytes that are no UTF-8; the name goes over the wire.
        name = around.host_name[:200].encode("utf-8", "replace").decode() or "obt-agent"
        made["agent.name"] = Setting(keys["agent.name"], name, Origin("default", "(host name)"))
    if "agent.state_dir" not in settings or not settings["agent.state_dir"].value:
        made["agent.state_dir"] = Setting(keys["agent.state_dir"], *_state_dir(around))
    # Linux's is the documented default; other systems have no such folder.
    locks = places.lock_folder(around.environ)
    if locks is not None and "benchmark.lock_dir" not in settings:
        made["benchmark.lock_dir"] = Setting(
            keys["benchmark.lock_dir"], locks, Origin("default", f"({sys.platform})")
        )
    return made


def _state_dir(around: ProcessContext) -> tuple[str, Origin]:
    """The folder that systemd made, else root's, else the user's."""
    # Several folders have colons between them; the unit names one (StateDirectory=obt-agent).
    if given := around.environ.get("STATE_DIRECTORY"):
        return given.split(":")[0], Origin("environment", "STATE_DIRECTORY")
    if around.user == owners.ROOT:
        return "/var/lib/obt-agent", Origin("default", "(root)")
    base = around.environ.get("XDG_STATE_HOME") or ""
    home = Path(around.environ.get("HOME") or "~").expanduser()
    folder = Path(base) if base.startswith("/") else home / ".local" / "state"
    return str(folder / "obt-agent"), Origin("default", "(user)")


def _finished(
    settings: Iterable[Setting], around: ProcessContext, problems: list[ConfigProblem]
) -> dict[str, Setting]:
    """Return settings with their addresses and paths in final form; what cannot be becomes a problem."""
    finished = {}
    for setting in settings:
        try:
            finished[setting.key.name] = Setting(setting.key, _final(setting, around), setting.origin)
        except urls.WrongUrl as error:
            text = f"found {shown(urls.without_userinfo(setting.value))}, which {error}"
            problems.append(ConfigProblem(where=str(setting.origin), key=setting.key.name, text=text))
    return finished


_ADDRESSES: Final[Mapping[str, Callable[[str], str]]] = {
    "server.url": urls.server_socket,
    "ollama.url": urls.ollama_base,
    "server.proxy": urls.proxy_address,
}


def _final(setting: Setting, around: ProcessContext) -> Any:
    name, value = setting.key.name, setting.value
    if not isinstance(value, str):
        return value
    if name in _ADDRESSES:
        return _ADDRESSES[name](value)
    if name in PATHS:
        return absolute(value, setting.origin, around)
    return value


def absolute(text: str, origin: Origin, around: ProcessContext) -> str:
    """Return a path in its final form."""
    # Only "~/": other users' homes would have to be looked up, and a service has no home at all.
    home = around.environ.get("HOME")
    path = Path(home) / text[2:] if home and text.startswith("~/") else Path(text)
    # A path in a file is meant from where that file lies, wherever the program was started.
    base = Path(origin.place.rpartition(":")[0]).parent if origin.kind == "file" else around.working_dir
    return os.path.normpath(base / path)


def _broken(config: Config, settings: Mapping[str, Setting], path: Path | None) -> list[ConfigProblem]:
    def where(key: str) -> str:
        return str(settings[key].origin) if key in settings else str(path or "the configuration")

    return [ConfigProblem(where=where(key), key=key, text=text) for key, text in rules.broken(config)]


def _no_server(path: Path | None) -> ConfigProblem:
    text = "is not set; name the server, for example server.url: https://obt.example.org"
    return ConfigProblem(where=str(path or "no configuration file"), key="server.url", text=text)


def place(problem: ConfigProblem) -> tuple[bool, str, int]:
    """Return what problems are sorted by: files first, each by its lines; then what comes from elsewhere."""
    file_name, _, line = problem.where.rpartition(":")
    return (not problem.where.startswith("/"), file_name, int(line) if line.isdecimal() else 0)
