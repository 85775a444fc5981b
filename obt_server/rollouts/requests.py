"""What somebody asks for, checked and put into the words that are stored."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from obt_agent.errors import InvalidParams
from obt_agent.identity.uuid7 import uuid7
from obt_agent.ollama.names import DEFAULT_HOST, canonical
from obt_server.hub.storage import AgentRecord
from obt_server.machine_jobs.local_times import check_end
from obt_server.rollout_storage import CreateSpec, Rollout, RolloutAction, RolloutTarget, model_key

MAX_CREATE_BYTES: Final = 256 << 10
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """A rollout as somebody asked for it."""

    action: RolloutAction
    model: str
    destination: str | None = None
    digest: str | None = None
    create: CreateSpec | None = None
    parallelism: int = 4
    offline: Literal["skip", "wait"] = "skip"
    until: float | None = None
    key: str | None = None
    model_set: str | None = None


def shown_name(name: str, field: str) -> str:
    """Return a model's name as Ollama shows it.

    Raises:
        InvalidParams: Ollama has no such names.
    """
    try:
        found = canonical(name.strip())
    except InvalidParams as error:
        raise InvalidParams(f"{field}: {error.message}", field=field) from error
    if found.host == DEFAULT_HOST:
        return found.short
    # Another registry may tell cases apart, so that its name stays as it was written.
    written = name.strip().rpartition("://")[2]
    return written if ":" in written.rpartition("/")[2] else f"{written}:{found.tag}"


def shown_digest(digest: str | None, field: str) -> str | None:
    """Return a digest as Ollama lists it, without its algorithm. Raise InvalidParams."""
    if digest is None:
        return None
    found = _DIGEST.fullmatch(digest.strip().lower())
    if found is None:
        raise InvalidParams(f"{field}: 64 hexadecimal digits, as Ollama lists digests.", field=field)
    return found[1]


def make(
    request: RolloutRequest, records: Sequence[AgentRecord], created_by: str
) -> tuple[Rollout, list[RolloutTarget]]:
    """Return what is stored of a request.

    Raises:
        InvalidParams: its parts do not fit its action, or a name is none.
    """
    _check(request)
    now = time.time()
    create = request.create
    if create is not None:
        create = msgspec.structs.replace(create, from_=shown_name(create.from_, "create.from"))
    destination = request.destination
    rollout = Rollout(
        id=str(uuid7()),
        action=request.action,
        model=shown_name(request.model, "model"),
        destination=None if destination is None else shown_name(destination, "destination"),
        digest=shown_digest(request.digest, "digest"),
        create=create,
        parallelism=request.parallelism,
        offline=request.offline,
        until=request.until,
        key=request.key,
        model_set=request.model_set,
        created_at=now,
        created_by=created_by[:200],
    )
    if rollout.destination is not None and model_key(rollout.destination) == model_key(rollout.model):
        raise InvalidParams("destination: it is the model itself.", field="destination")
    targets = [RolloutTarget(agent_id=record.id, agent_name=record.name) for record in records]
    return rollout, targets


def _check(request: RolloutRequest) -> None:
    """Whether the parts fit the action: what would be ignored was meant otherwise."""
    for name, action in (("destination", "copy"), ("create", "create")):
        given = getattr(request, name) is not None
        if given != (request.action == action):
            what = "is needed" if request.action == action else f"belongs to the action {action} alone"
            raise InvalidParams(f"{name}: {what}.", field=name)
    if request.digest is not None and request.action != "pull":
        raise InvalidParams("digest: belongs to the action pull alone.", field="digest")
    if request.create is not None and len(msgspec.json.encode(request.create)) > MAX_CREATE_BYTES:
        raise InvalidParams(f"create: it has more than {MAX_CREATE_BYTES} bytes.", field="create")
    check_end(request.until, time.time(), "until")
