"""Settings from the environment's variables and from a ``.env`` file in the working directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_agent.config.file import read_bytes
from obt_agent.config.keys import AGENT, PREFIX, SHORT_NAMES, Key, Scheme
from obt_agent.config.origins import Origin, Setting, SourceReading
from obt_agent.config.problems import ConfigProblem
from obt_agent.config.values import WrongValue, from_text
from obt_agent.spelling import nearest
from obt_agent.system import owners

_DOTENV_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Variable:
    """A variable and where it was said."""

    name: str
    text: str
    origin: Origin


def from_environment(environ: Mapping[str, str], scheme: Scheme = AGENT) -> SourceReading:
    """Settings of all variables that are ours. One that is empty counts as not set."""
    return _settings((Variable(n, t, Origin("environment", n)) for n, t in environ.items() if t), scheme)


def may_read_dotenv(environ: Mapping[str, str], *, terminal: bool, user: int, pid: int) -> bool:
    """Return whether this is a person at a terminal: never root, never a service.

    systemd gives a service's processes ``INVOCATION_ID``; a terminal that is itself a user's service hands it
    on to its shells, which ``SYSTEMD_EXEC_PID`` (of another process) tells apart.
    """
    if not terminal or user == 0 or "NOTIFY_SOCKET" in environ:
        return False
    inherited = environ.get("SYSTEMD_EXEC_PID", str(pid)) != str(pid)
    return "INVOCATION_ID" not in environ or inherited


def from_dotenv(path: Path, user: int) -> SourceReading:
    """Settings of ``NAME=value`` lines; other programs' lines are passed over. No file: nothing.

    A policy cannot be set here: whoever unpacks a folder must not thereby widen what a server may do.
    """
    try:
        data, status = read_bytes(path, _DOTENV_BYTES)
    except FileNotFoundError:
        return SourceReading()
    except OSError as error:
        return SourceReading(notices=(f"{path} is left aside: {error.strerror or error}",))
    if not _own(status, user):
        return SourceReading(notices=(f"{path} is left aside: others than you can change it",))
    if len(data) > _DOTENV_BYTES:
        return SourceReading(notices=(f"{path} is left aside: it is over {_DOTENV_BYTES} bytes long",))
    variables = list(_dotenv_lines(path, data.decode("utf-8", "replace")))
    policy = [variable for variable in variables if variable.name.startswith(f"{PREFIX}POLICY_")]
    reading = _settings((variable for variable in variables if variable not in policy), AGENT)
    return SourceReading(
        reading.settings, reading.problems + tuple(map(_policy_problem, policy)), reading.notices
    )


def _own(status: os.stat_result, user: int) -> bool:
    """Return whether nobody but this user can change the file."""
    return owners.owner(status) == user and not owners.granted(status, owners.WRITABLE_BY_MORE)


def _policy_problem(variable: Variable) -> ConfigProblem:
    text = "the policy cannot be set in a .env file; write it into the configuration file"
    return ConfigProblem(where=str(variable.origin), key=_shown_name(variable), text=text)


def _shown_name(variable: Variable) -> str | None:
    """The variable's name, unless its origin says it already."""
    return variable.name if variable.origin.kind == "dotenv" else None


def _dotenv_lines(path: Path, text: str) -> Iterable[Variable]:
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name = name.strip()
        # The file may be another program's: what is not ours is none of our business.
        ours = name.startswith(PREFIX) or name in SHORT_NAMES
        if equals and ours and (bare := _unquoted(value.strip())):
            yield Variable(name, bare, Origin("dotenv", f"{path}:{number}"))


def _unquoted(value: str) -> str:
    if value[:1] in {"'", '"'}:
        end = value.find(value[0], 1)
        return value[1:end] if end > 0 else value
    return value.partition(" #")[0].rstrip()


def _settings(variables: Iterable[Variable], scheme: Scheme) -> SourceReading:
    settings: dict[str, Setting] = {}
    problems: list[ConfigProblem] = []
    # The long name comes last, and wins over a short one of the same key.
    for variable in sorted(variables, key=lambda one: one.name not in scheme.short_names):
        try:
            if key := _key(variable.name, scheme):
                settings[key.name] = Setting(key, from_text(key, variable.text), variable.origin)
        except WrongValue as error:
            problems.append(
                ConfigProblem(where=str(variable.origin), key=_shown_name(variable), text=str(error))
            )
    return SourceReading(tuple(settings.values()), tuple(problems))


def _key(name: str, scheme: Scheme) -> Key | None:
    if short := scheme.short_names.get(name):
        return scheme.keys[short]
    if not name.startswith(scheme.prefix) or name in scheme.own_names:
        return None
    if scheme.others_names is not None and scheme.others_names.fullmatch(name):
        return None
    if name in scheme.secret_names:
        raise WrongValue(scheme.keep_apart)
    if name not in scheme.variables:
        raise WrongValue(f"sets no key of the configuration{nearest(name, scheme.variables, least=0.85)}")
    return scheme.variables[name]


def at_a_terminal() -> bool:
    """Return whether standard input or standard error is a terminal."""
    # Not standard output: a person may send that into a file.
    return os.isatty(0) or os.isatty(2)
