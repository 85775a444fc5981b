"""The instructions of ``deploy/Dockerfile``, read strictly: what is not known is an error, not skipped."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

_CONTINUED = "\\"
_FROM = re.compile(r"(\S+)(?: AS ([a-z][a-z0-9-]*))?")
_FROM_STAGE = re.compile(r"--from=(\S+)\s+")
_HEALTH = re.compile(r"((?:--(?:interval|timeout|start-period|retries)=\S+\s+)*)CMD\s+(\[.*\])")
_HEALTH_OPTION = re.compile(r"--([a-z-]+)=(\S+)")
_NUMBERED_USER = re.compile(r"(\d+):(\d+)")


class DockerfileError(Exception):
    """The file has something that the reader does not know; the message has the line."""


@dataclass(frozen=True)
class Run:
    """Words for ``/bin/sh -c``."""

    script: str


@dataclass(frozen=True)
class Copy:
    """Files of the context, or of another stage, and where they go."""

    sources: tuple[str, ...]
    target: str
    stage: str | None = None


@dataclass(frozen=True)
class HealthCheck:
    """The command that says how a container is, and its options."""

    command: tuple[str, ...]
    options: dict[str, str]


@dataclass
class Settings:
    """What an image says of the containers made from it; a stage begins with its base's."""

    environ: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: tuple[int, int] = (0, 0)
    folder: str = "/"
    volumes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: HealthCheck | None = None
    stop_signal: str = ""


@dataclass(frozen=True)
class Step:
    """What changes files, with the folder, user and environment in which it does."""

    action: Run | Copy
    settings: Settings
    line: int


@dataclass
class Stage:
    """One ``FROM`` and what follows it. ``base`` is another stage or an image."""

    name: str
    base: str
    settings: Settings = field(default_factory=Settings)
    arguments: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def read(text: str) -> dict[str, Stage]:
    """Return the stages by name, in their order.

    Raises:
        DockerfileError: an instruction, an option or a form that is not known.
    """
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line, instruction, rest in _instructions(text):
        try:
            if instruction == "FROM":
                stage = _from(rest, stages)
                stages[stage.name] = stage
            else:
                _take(stage, instruction, rest, line)
        except (DockerfileError, ValueError) as error:
            raise DockerfileError(f"line {line}: {error}") from error
    return stages


def _take(stage: Stage | None, instruction: str, rest: str, line: int) -> None:
    if stage is None:
        raise DockerfileError("there is no FROM before it")
    if instruction in _CHANGES:
        stage.steps.append(Step(_CHANGES[instruction](rest), _copy_of(stage.settings), line))
    elif instruction in _SETTINGS:
        _SETTINGS[instruction](stage, rest)
    else:
        raise DockerfileError(f"unknown instruction {instruction}")


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Each instruction with the number of its first line; comments within a continued one are left out."""
    started, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        started = started if parts else number
        parts.append(line.strip().removesuffix(_CONTINUED).strip())
        if line.rstrip().endswith(_CONTINUED):
            continue
        instruction, _, rest = " ".join(parts).partition(" ")
        yield started, instruction, rest.strip()
        parts = []
    if parts:
        raise DockerfileError(f"line {started}: the last line is continued")


def _from(rest: str, stages: dict[str, Stage]) -> Stage:
    found = _FROM.fullmatch(rest)
    if found is None or found[2] is None:
        raise DockerfileError(f"FROM {rest}: expected FROM IMAGE AS NAME")
    if found[2] in stages:
        raise DockerfileError(f"there are two stages {found[2]}")
    base = stages.get(found[1])
    # As in an image: commands, health check and user come from the base. Arguments do not.
    return Stage(found[2], found[1], Settings() if base is None else _copy_of(base.settings))


def _copy_of(settings: Settings) -> Settings:
    return Settings(**{**vars(settings), "environ": dict(settings.environ), "labels": dict(settings.labels)})


def _run(rest: str) -> Run:
    if rest.startswith(("[", "--")):
        raise DockerfileError("RUN takes words for a shell alone here, and no options")
    return Run(rest)


def _copy(rest: str) -> Copy:
    stage = _FROM_STAGE.match(rest)
    words = shlex.split(rest[stage.end() :] if stage else rest)
    if any(word.startswith("--") for word in words) or len(words) < 2:
        raise DockerfileError(f"COPY {rest}: expected COPY [--from=STAGE] SOURCE... TARGET")
    return Copy(tuple(words[:-1]), words[-1], stage[1] if stage else None)


def _words(rest: str) -> tuple[str, ...]:
    """The exec form: a JSON list. A shell between would be PID 1, and pass no signal on."""
    words = json.loads(rest)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"{rest}: expected a list of words in JSON")
    return tuple(words)


def _pairs(rest: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in shlex.split(rest)]
    if not all(separator for _, separator, _ in pairs) or "$" in rest:
        raise DockerfileError(f"{rest}: expected NAME=VALUE ..., without variables")
    return {name: value for name, _, value in pairs}


def _env(stage: Stage, rest: str) -> None:
    stage.settings.environ |= _pairs(rest)


def _label(stage: Stage, rest: str) -> None:
    stage.settings.labels |= _pairs(rest)


def _arg(stage: Stage, rest: str) -> None:
    name, _, value = rest.partition("=")
    stage.arguments[name] = value


def _user(stage: Stage, rest: str) -> None:
    found = _NUMBERED_USER.fullmatch(rest)
    if found is None:
        raise DockerfileError(f"USER {rest}: expected numbers, UID:GID")
    stage.settings.user = int(found[1]), int(found[2])


def _workdir(stage: Stage, rest: str) -> None:
    if not rest.startswith("/"):
        raise DockerfileError(f"WORKDIR {rest}: expected an absolute path")
    stage.settings.folder = rest


def _volume(stage: Stage, rest: str) -> None:
    stage.settings.volumes += _words(rest)


def _expose(stage: Stage, rest: str) -> None:
    stage.settings.ports += (int(rest),)


def _stop_signal(stage: Stage, rest: str) -> None:
    stage.settings.stop_signal = rest


def _health(stage: Stage, rest: str) -> None:
    found = _HEALTH.fullmatch(rest)
    if found is None:
        raise DockerfileError(f"HEALTHCHECK {rest}: expected options and CMD with a list of words")
    stage.settings.health = HealthCheck(_words(found[2]), dict(_HEALTH_OPTION.findall(found[1])))


def _entrypoint(stage: Stage, rest: str) -> None:
    # A base's command was for the base's entry point.
    stage.settings.entrypoint, stage.settings.command = _words(rest), ()


def _cmd(stage: Stage, rest: str) -> None:
    stage.settings.command = _words(rest)


_CHANGES: dict[str, Callable[[str], Run | Copy]] = {"RUN": _run, "COPY": _copy}
_SETTINGS: dict[str, Callable[[Stage, str], None]] = {
    "ARG": _arg,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health,
    "LABEL": _label,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


@dataclass(frozen=True)
class Context:
    """What a build sees of a folder, by its ``.dockerignore``."""

    folder: Path

    def files(self) -> list[str]:
        """The files, as paths from the folder."""
        lines = (self.folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
        rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        top = [path for path in self.folder.iterdir() if not _excluded(path.name, rules)]
        found = [
            path.relative_to(self.folder).as_posix()
            for one in top
            for path in (one.rglob("*") if one.is_dir() else (one,))
            if not path.is_dir()
        ]
        return sorted(name for name in found if not _excluded(name, rules))


def _excluded(name: str, rules: list[str]) -> bool:
    """Whether a path is left out: the last rule that fits it, or a folder above it, decides."""
    path = PurePosixPath(name)
    places = [name, *(str(parent) for parent in path.parents if str(parent) != ".")]
    excluded = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        if any(_fits(place, pattern) for place in places):
            excluded = not rule.startswith("!")
    return excluded


def _fits(place: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatchcase(PurePosixPath(place).name, pattern.removeprefix("**/"))
    # A star does not reach beyond its folder.
    return place.count("/") == pattern.count("/") and fnmatchcase(place, pattern)
