"""The options for the configuration. Only the parser is imported: every start of a command reads this."""

from __future__ import annotations

import argparse
from typing import Any, Final

from obt_agent.argument_parser import OptionTable, add_options

# The keys that people set most; every other one has --set. By flag: key, placeholder, help.
_KEYS: Final = {
    "--server-url": ("server.url", "URL", "the server, instead of server.url"),
    "--ollama-url": ("ollama.url", "URL", "Ollama's address, instead of ollama.url"),
    "--name": ("agent.name", "NAME", "what people call this machine, instead of agent.name"),
    "--state-dir": ("agent.state_dir", "DIR", "where identity and jobs are kept, instead of agent.state_dir"),
    "--log-level": ("log.level", "LEVEL", "debug, info, warning or error, instead of log.level"),
    "--log-format": ("log.format", "FORMAT", "auto, journal, console or json, instead of log.format"),
}
KEY_FLAGS: Final = {flag: key for flag, (key, _, _) in _KEYS.items()}
"""The flag of each key that has one."""


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError("expected KEY=VALUE, for example ollama.url=http://127.0.0.1:11434")
    return key, value


def _of_key(key: str, metavar: str, words: str) -> dict[str, Any]:
    return {"dest": f"key:{key}", "metavar": metavar, "help": words}


CONFIG_OPTIONS: Final[OptionTable] = {
    "--config": {
        "metavar": "FILE",
        "help": "else $OBT_AGENT_CONFIG, ~/.config/obt-agent/agent.yaml or /etc/obt-agent/agent.yaml",
    },
    **{flag: _of_key(*facts) for flag, facts in _KEYS.items()},
    "--set": {
        "dest": "settings",
        "action": "append",
        "default": [],
        "type": _setting,
        "metavar": "KEY=VALUE",
        "help": "any key, for example policy.max_streams=4; may be given several times",
    },
}
"""``--config FILE``, a flag for each of the usual keys, and ``--set KEY=VALUE`` for all."""


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of everything that reads the configuration."""
    add_options(parser.add_argument_group("configuration"), CONFIG_OPTIONS)
