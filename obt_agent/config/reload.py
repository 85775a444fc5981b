"""Read the configuration again while the program runs, and say what changed. A wrong one changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from obt_agent.config.keys import all_keys
from obt_agent.config.load import LoadedConfig, ProcessContext, load

# Keys, and beginnings of keys, that a running agent takes on; the others take a restart.
APPLIED_LIVE: Final = ("policy.", "log.level")


@dataclass(frozen=True)
class Changed:
    """One key whose value is another now; ``restart``: the running agent goes on with the old one."""

    key: str
    old: Any
    new: Any
    restart: bool


@dataclass(frozen=True)
class Reloaded:
    """The new configuration and how it differs from the one before."""

    loaded: LoadedConfig
    changes: tuple[Changed, ...]

    @property
    def needing_restart(self) -> tuple[str, ...]:
        """Keys that changed and take a restart."""
        return tuple(change.key for change in self.changes if change.restart)


def reload(before: LoadedConfig, *, surroundings: ProcessContext | None = None) -> Reloaded:
    """Load with the same arguments as before.

    Raises:
        WrongConfig: the new configuration is wrong; the one before stays in force.
    """
    # Flags stay those of the start; the file and the environment may say something else now.
    request = before.request
    again = load(
        request.path, flags=request.flags, need_server=request.need_server, surroundings=surroundings
    )
    return Reloaded(again, differences(before, again))


def differences(before: LoadedConfig, after: LoadedConfig) -> tuple[Changed, ...]:
    """Keys whose values differ, in the schema's order."""
    return tuple(
        Changed(key, old, new, not key.startswith(APPLIED_LIVE))
        for key in all_keys()
        if (old := value_of(before, key)) != (new := value_of(after, key))
    )


def value_of(loaded: LoadedConfig, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = loaded.config
    for part in key.split("."):
        value = getattr(value, part)
    return value
