"""A campaign's file: YAML that says what to measure on which machines, and when.

It is read and checked before anything is sent. Every fault names the key and its line. What only the server
knows, such as which machines and saved plans there are, it says itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.plan import Plan
from obt_agent.config import document
from obt_agent.errors import InvalidParams, TooLarge
from obt_agent.spelling import nearest
from obt_server.cli.options import UsageError
from obt_server.client import JsonObject

# Where a value stands: keys of mappings and positions in lists, from the top.
Place = tuple[str | int, ...]

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class _FileSection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A mapping of the file: a key that it does not have is a mistake."""


class FilePlan(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """One plan: a saved one by ``name`` (the newest where no ``version`` is given), or one written out."""

    name: Name | None = None
    version: Positive | None = None
    plan: dict[str, Any] | None = None
    label: Name | None = None

    def __post_init__(self) -> None:
        if (self.name is None) == (self.plan is None):
            raise ValueError("give name (of a saved plan) or plan (written out), one of them")
        if self.version is not None and self.name is None:
            raise ValueError("version goes with name")


class FileTargets(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """The machines: by id or name, by label, or all."""

    agents: tuple[Name, ...] = ()
    labels: tuple[Name, ...] = ()
    all: bool = False

    def __post_init__(self) -> None:
        if not (self.agents or self.labels or self.all):
            raise ValueError("name machines: agents, labels, or all: true")


class FileQuietHours(_FileSection, frozen=True, kw_only=True, omit_defaults=True, rename={"begin": "from"}):
    """Local times between which no cell begins; without a zone, the server's own."""

    begin: str
    to: str
    time_zone: Name | None = None


class FileSettle(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """The wait for an idle machine before each cell."""

    idle_for_s: NotNegative = 10.0
    max_wait_s: NotNegative = 300.0


class FileBaseline(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """With what results are compared."""

    mode: Literal["rolling", "pinned", "none"]
    last: Positive | None = None
    results: tuple[Name, ...] | None = None


class FileSchedule(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """When the campaign begins by itself; its name is that of the campaign where it has none of its own."""

    cron: Name
    time_zone: Name
    name: Name | None = None
    jitter_s: NotNegative = 0.0
    late_s: NotNegative = 3600.0


class CampaignFile(_FileSection, frozen=True, kw_only=True, omit_defaults=True):
    """The whole file. It has no ``not_after``, which is a point in time: ``--within`` sets that."""

    name: Name
    plans: Annotated[tuple[Name | FilePlan, ...], Meta(min_length=1)]
    models: Annotated[tuple[Name, ...], Meta(min_length=1)]
    targets: FileTargets
    metric: Name | None = None
    order: Literal["model", "plan", "random"] | None = None
    repeat: Annotated[int, Meta(ge=1, le=20)] | None = None
    on_offline: Literal["skip", "wait"] | None = None
    pull_missing: bool | None = None
    quiet_hours: FileQuietHours | None = None
    settle: FileSettle | None = None
    baseline: FileBaseline | None = None
    schedule: FileSchedule | None = None

    def body(self, *, within_s: float | None = None, key: str | None = None) -> JsonObject:
        """The body of ``POST /campaigns``."""
        body: JsonObject = msgspec.json.decode(msgspec.json.encode(self))
        body.pop("schedule", None)
        body["plans"] = [{"name": one} if isinstance(one, str) else one for one in body["plans"]]
        more = {"not_after": None if within_s is None else time.time() + within_s, "key": key}
        return body | {name: value for name, value in more.items() if value is not None}

    def schedule_body(self) -> JsonObject:
        """The body of ``PUT /schedules/{name}``. Raises UsageError where the file has no schedule."""
        if self.schedule is None:
            raise UsageError("the file has no schedule: add schedule with cron and time_zone")
        when: JsonObject = msgspec.structs.asdict(self.schedule)
        del when["name"]
        return {**when, "campaign": self.body()}

    @property
    def schedule_name(self) -> str:
        """Under which name the schedule is kept."""
        return (self.schedule.name if self.schedule else None) or self.name


def read(path: Path) -> CampaignFile:
    """Read and check a file.

    Raises:
        UsageError: it cannot be read, or something in it is wrong; the message says what and where.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        node = document.read(data)
    except document.WrongDocument as error:
        raise UsageError(f"{path}:{error.line}: {error}" if error.line else f"{path}: {error}") from error
    lines: dict[Place, int] = {}
    try:
        value = _value(node, (), lines)
        found: CampaignFile = _converted(value, CampaignFile, ())
        _check_plans(found, value)
    except _Wrong as wrong:
        raise UsageError(f"{path}:{_line(lines, wrong.place)}: {wrong}") from wrong
    return found


class _Wrong(Exception):
    """Something at a place of the file is wrong."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{_words(place)}: {text}" if place else text)
        self.place = place


def _value(node: document.Node, place: Place, lines: dict[Place, int]) -> Any:
    """The value of a node as JSON has it; ``lines`` takes where each stands."""
    lines.setdefault(place, node.line)
    if isinstance(node, document.Scalar):
        return _scalar(node)
    if isinstance(node, document.SequenceNode):
        return [_value(one, (*place, number), lines) for number, one in enumerate(node.items)]
    found: dict[str, Any] = {}
    for entry in node.entries:
        inner = (*place, entry.key)
        # The key's line, not the value's: that may begin below it.
        twice, lines[inner] = inner in lines, entry.line
        if twice:
            raise _Wrong(inner, "stands here a second time")
        found[entry.key] = _value(entry.value, inner, lines)
    return found


_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def _scalar(node: document.Scalar) -> Any:
    """Null, truth, number or text: numbers and truths as JSON writes them, and nothing in quotes."""
    if node.empty:
        return None
    if not node.plain:
        return node.text
    if node.text in ("true", "false"):
        return node.text == "true"
    if number := _NUMBER.fullmatch(node.text):
        return float(node.text) if number[1] or number[2] else int(node.text)
    return node.text


def _converted(value: Any, type_: Any, place: Place) -> Any:
    """The value as a type. Raises _Wrong with the place of the fault."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        inner = (*place, *_steps(path.rstrip("`")))
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
        if unknown is None:
            raise _Wrong(inner, text[:1].lower() + text[1:]) from error
        raise _Wrong((*inner, unknown[1]), f"there is no such key{nearest(unknown[1], _KEYS)}") from error


def _steps(path: str) -> Iterator[str | int]:
    """The steps of msgspec's ``.plans[0].name``."""
    for key, position in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        yield key or int(position)


def _check_plans(found: CampaignFile, value: Mapping[str, Any]) -> None:
    """Check plans that are written out, as the agent would; it ignores keys that it does not know."""
    for number, one in enumerate(found.plans):
        if isinstance(one, str) or one.plan is None:
            continue
        place: Place = ("plans", number, "plan")
        if "model_name" in one.plan:
            raise _Wrong((*place, "model_name"), "a campaign names models under models")
        plan = _converted({**one.plan, "model_name": "any"}, Plan, place)
        for wrong, known in _unknown(value["plans"][number]["plan"], plan, place):
            raise _Wrong(wrong, f"there is no such key{nearest(str(wrong[-1]), known)}")
        try:
            expand(plan)
        except (InvalidParams, TooLarge) as error:
            raise _Wrong(place, error.message) from error


def _unknown(value: Any, made: Any, place: Place) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """The places of keys that what was made of them does not have, with the keys that it has."""
    if isinstance(made, msgspec.Struct) and isinstance(value, dict):
        known = made.__struct_fields__
        for key, inner in value.items():
            if key not in known:
                yield (*place, key), known
            else:
                yield from _unknown(inner, getattr(made, key), (*place, key))
    elif isinstance(made, tuple) and isinstance(value, list):
        for number, (inner, one) in enumerate(zip(value, made, strict=True)):
            yield from _unknown(inner, one, (*place, number))


_SECTIONS: Final[tuple[type[msgspec.Struct], ...]] = (
    *(CampaignFile, FilePlan, FileTargets, FileQuietHours, FileSettle, FileBaseline, FileSchedule),
)
_KEYS: Final = tuple(
    dict.fromkeys(one.encode_name for section in _SECTIONS for one in msgspec.structs.fields(section))
)


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a place; of what is missing there the line of what it is missing in."""
    while place not in lines and place:
        place = place[:-1]
    return lines.get(place, 1)


def _words(place: Place) -> str:
    """``plans[0].plan.seed``."""
    words = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place)
    return words.removeprefix(".")
