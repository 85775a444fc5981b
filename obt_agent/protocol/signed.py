"""Signed requests on the wire: the text that is signed, and the signature beside it. Pure.

What is signed is a text, and what runs is what that text says: no canonical form of JSON is needed, and the
server cannot say one thing beside the signature and have another one run.
"""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from obt_agent.errors import InvalidParams, ProtocolError
from obt_agent.protocol import codec
from obt_agent.protocol.methods import COMMANDS

SIGNED_JOBS: Final = frozenset(method.name for method in COMMANDS if method.job)
SIGNED_METHODS: Final = SIGNED_JOBS | {method.name for method in COMMANDS if method.changes}
"""What uses the machine for long, or changes what is installed."""
PURPOSE: Final = "obt-agent signed request 1"
"""Stands in the text, so that a signature made for anything else with the same key is none here."""
MAX_WINDOW_S: Final = 7 * 86400.0
"""Between ``not_before`` and ``not_after``: less than the 90 days for which the id of a job is remembered."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """``params.signature``: the signed text, the public key and the signature, both in base64."""

    text: str
    key: str
    value: str


class SignedText(msgspec.Struct, frozen=True, kw_only=True):
    """What the text holds. ``id`` is the ``job_id`` of a job, else unique; times are Unix seconds."""

    purpose: str
    method: str
    agent_id: str
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    not_before: float
    not_after: float
    params: msgspec.Raw


def text_to_sign(agent_id: str, method: str, params: dict[str, Any], now: float, seconds: float) -> str:
    """Return the text for a request that is valid from ``now`` for ``seconds``, 7 days at most."""
    return json.dumps(
        {
            "purpose": PURPOSE,
            "method": method,
            "agent_id": agent_id,
            # The job's own: a text that is sent twice starts one job.
            "id": params.get("job_id") or str(uuid.uuid4()),
            "not_before": now,
            "not_after": now + min(seconds, MAX_WINDOW_S),
            "params": params,
        }
    )


def read_text(text: str) -> SignedText:
    """Return what a text to sign says. It proves nothing of who signed it.

    Raises:
        InvalidParams: it is none, or for a method that needs no signature.
    """
    # Lone surrogates become bytes here, which the parser refuses as it does other nonsense.
    data = text.encode("utf-8", "surrogatepass")
    try:
        codec.check_depth(data)
        read = msgspec.json.decode(data, type=SignedText)
    except (ProtocolError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidParams("The text is not what obt-agent sign takes.") from error
    if read.purpose != PURPOSE or read.method not in SIGNED_METHODS:
        raise InvalidParams("The text is for something else than a request that needs a signature.")
    return read
