"""Which machines a request means: by id, by name, by label, or all."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from obt_agent.errors import InvalidParams
from obt_server.hub import Hub
from obt_server.hub.storage import AgentRecord


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """Machines: those named by id or name, those with one of the labels, or all. The union counts."""

    agents: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    all: bool = False


def labels_of(record: AgentRecord) -> frozenset[str]:
    """A machine's labels, the operators' and its own."""
    return frozenset(record.labels) | frozenset(record.own_labels)


def with_labels(records: Sequence[AgentRecord], labels: Sequence[str]) -> list[AgentRecord]:
    """The machines that have one of the labels."""
    wanted = frozenset(labels)
    return [record for record in records if wanted & labels_of(record)]


async def select(hub: Hub, selector: Selector, most: int) -> list[AgentRecord]:
    """Return the machines that a selector means, by name.

    Raises:
        UnknownAgent, AmbiguousAgent: one of those named.
        InvalidParams: it means nobody, or too many.
    """
    records = await hub.directory.current()
    # By id or name from memory; ``find`` says what is wrong with one that is neither.
    named = [records.get(one) or await hub.find(one) for one in selector.agents]
    chosen = {record.id for record in named}
    chosen |= {record.id for record in with_labels(list(records.values()), selector.labels)}
    found = [record for record in records.values() if selector.all or record.id in chosen]
    if not found:
        raise InvalidParams(
            "targets: no machine is meant; name some, a label that some have, or all.", field="targets"
        )
    if len(found) > most:
        raise InvalidParams(
            f"targets: {len(found)} machines are meant; {most} are the most.", field="targets"
        )
    return found
