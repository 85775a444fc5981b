"""Policies written as their owner writes them."""

from typing import Any

import msgspec

from obt_agent.config.schema import PolicyConfig
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.policy import Policy


def config(**section: Any) -> PolicyConfig:
    return msgspec.convert(section, PolicyConfig)


def policy(**section: Any) -> Policy:
    return Policy(config(**section))


def installed(name: str, digest: str = "d1", **more: Any) -> InstalledModel:
    return InstalledModel(name=name, digest=digest, size_bytes=1, **more)
