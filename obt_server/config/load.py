"""Load the server's settings: defaults, then the file, then variables, then options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from obt_agent.config import environment, file
from obt_agent.config.keys import Scheme, nested
from obt_agent.config.load import ProcessContext, absolute, from_flags, place
from obt_agent.config.origins import Origin, Setting, SourceReading
from obt_agent.config.problems import ConfigProblem, WrongConfig
from obt_server.config.bus_address import bus_problem
from obt_server.config.schema import ServerOptions

SERVER: Final = Scheme(
    schema=ServerOptions,
    prefix="OBT_SERVER_",
    file_variable="OBT_SERVER_CONFIG",
    file_name="obt-server/server.yaml",
    system_file=Path("/etc/obt-server/server.yaml"),
    short_names={"OBT_SERVER_DATABASE": "database.address", "OBT_SERVER_BUS": "bus.address"},
    # Those of commands that ask a server.
    own_names=frozenset({"OBT_SERVER_CONFIG", "OBT_SERVER_URL", "OBT_SERVER_TOKEN"}),
    # Kubernetes and Docker's links set these in every container beside a service of that name.
    others_names=re.compile(r"OBT_SERVER_(SERVICE|PORT|NAME|ENV)(_.*)?"),
    paths=frozenset(
        {
            "database.address",
            "listen.tls_cert_file",
            "listen.tls_key_file",
            "listen.next_tls_cert_file",
            "operators.first_password_file",
            "bus.credentials_file",
            "bus.ca_file",
        }
    ),
    secret_keys=frozenset(
        {"listen.tls_key", "operators.first_password", "bus.password", "bus.token", "bus.credentials"}
    ),
    secret_names=frozenset(
        {
            *("OBT_SERVER_PASSWORD", "OBT_SERVER_LISTEN_TLS_KEY", "OBT_SERVER_OPERATORS_FIRST_PASSWORD"),
            *("OBT_SERVER_BUS_PASSWORD", "OBT_SERVER_BUS_TOKEN", "OBT_SERVER_BUS_CREDENTIALS"),
        }
    ),
    keep_apart="a secret does not belong in the configuration: name the key's file in listen.tls_key_file; "
    "the first password's in operators.first_password_file; that of NATS in bus.credentials_file; obt-server "
    "operators password sets others",
)
_EXAMPLE: Final = "server.example.yaml"


@dataclass(frozen=True, kw_only=True)
class LoadedOptions:
    """Valid settings, where each came from, and the file that was read."""

    config: ServerOptions
    origins: Mapping[str, Origin]
    path: Path | None
    notices: tuple[str, ...] = ()

    def value(self, key: str) -> Any:
        """Return the value of a dotted key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self.config, section), name)


def load(
    path: str | None = None,
    *,
    flags: Mapping[str, tuple[str, str]] | None = None,
    surroundings: ProcessContext | None = None,
) -> LoadedOptions:
    """Load and check everything; nothing is used when anything is wrong.

    Args:
        path: the file that ``--config`` named.
        flags: dotted key to the option's name and its text.
        surroundings: environment and working directory; the process's own when omitted.

    Raises:
        WrongConfig: with every problem at once.
    """
    around = surroundings or ProcessContext()
    found, _ = file.find(path, around.environ, SERVER)
    # Later ones win over earlier ones.
    readings = [
        SourceReading() if found is None else file.read(found, SERVER),
        environment.from_environment(around.environ, SERVER),
        from_flags(flags or {}, SERVER),
    ]
    problems = [problem for reading in readings for problem in reading.problems]
    if problems:
        raise WrongConfig(sorted(problems, key=place))
    settings = {one.key.name: _final(one, around) for reading in readings for one in reading.settings}
    if not settings.get("database.address", _NOTHING).value:
        key = SERVER.keys["database.address"]
        settings["database.address"] = Setting(
            key, str(default_database(around)), Origin("default", "(user)")
        )
    _refuse_password(settings["database.address"])
    if "bus.address" in settings:
        _check_bus(settings["bus.address"])
    values = {name: setting.value for name, setting in settings.items()}
    return LoadedOptions(
        config=msgspec.convert(nested(values), ServerOptions),
        origins={
            name: settings[name].origin if name in settings else Origin("default") for name in SERVER.keys
        },
        path=found,
        notices=tuple(notice for reading in readings for notice in reading.notices),
    )


def _refuse_password(address: Setting) -> None:
    # Arguments are seen by every user of the machine, and settings are shown by ``config show``.
    if _PASSWORD.search(str(address.value)):
        text = (
            "a password does not belong there: put it into a file that only its owner reads, and name that "
            "file (?passfile=FILE at the end, or PGPASSFILE, or ~/.pgpass)"
        )
        raise WrongConfig([ConfigProblem(where=str(address.origin), key="database.address", text=text)])


def _check_bus(address: Setting) -> None:
    problem = bus_problem(str(address.value))
    if problem is not None:
        raise WrongConfig([ConfigProblem(where=str(address.origin), key="bus.address", text=problem)])


_PASSWORD: Final = re.compile(r"://[^/?@]*:[^/?]*@|[?&]password=")
_NOTHING: Final = Setting(SERVER.keys["database.address"], "", Origin("default"))


def _final(setting: Setting, around: ProcessContext) -> Setting:
    if setting.key.name in SERVER.paths and setting.value and "://" not in setting.value:
        return Setting(setting.key, absolute(setting.value, setting.origin, around), setting.origin)
    return setting


def default_database(around: ProcessContext) -> Path:
    """Return where the database is unless somebody says otherwise.

    In the user's data folder, or that of services where a user has none.
    """
    data = around.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(data).expanduser() / "obt-server" / "obt.sqlite3"
    except RuntimeError:
        # A user without a home, as containers have.
        return Path("/var/lib/obt-server/obt.sqlite3")


def example() -> str:
    """Return the text of the example: each setting with its meaning and its default."""
    return resources.files("obt_server.config").joinpath(_EXAMPLE).read_text(encoding="utf-8")
