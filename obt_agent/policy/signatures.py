"""Requests signed by a key that the server does not hold (Ed25519, RFC 8032)."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from obt_agent.errors import ConfigError, InvalidParams, NotPermitted
from obt_agent.protocol.signed import (
    MAX_WINDOW_S,
    PURPOSE,
    SIGNED_JOBS,
    SIGNED_METHODS,
    Signature,
    SignedText,
)

MAX_SKEW_S: Final = 60.0
"""That the signer's clock may be ahead: a request is often sent in the second in which it was signed."""
MAX_USED: Final = 10_000
"""Ids of copies and deletions that are remembered; each took a signature of the owner's people."""
KEY: Final = "policy.signers"


class _Params(msgspec.Struct, frozen=True):
    signature: Signature | None = None
    job_id: str | None = None


def public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in base64.

    Raises:
        ConfigError: it is none.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:  # noqa: PLR2004 - the length of the method's keys
        raise ConfigError(f"{KEY}: {text[:64]!r} is no Ed25519 public key: 32 bytes in base64 are.")
    return key


class SignatureCheck:
    """Holds requests against the owner's list of signers; without one every request passes as it is.

    Args:
        agent_id: this agent; a text for another one is refused.
        clock: Unix seconds.
    """

    def __init__(self, agent_id: str, clock: Callable[[], float] = time.time) -> None:
        self._agent_id = agent_id
        self._clock = clock
        # Copies and deletions have no job that is remembered. Their ids are, while this process lives; a text
        # from before it began may have been used then, and is refused.
        self._began = clock()
        self._used: dict[str, float] = {}

    def params_of(self, method: str, params: msgspec.Raw, signers: Sequence[str]) -> msgspec.Raw:
        """Return the parameters that may run: the signed ones where a signature is needed.

        Raises:
            NotPermitted: there is no signature by a listed key, or it is for something else, or it was used.
        """
        if not signers or method not in SIGNED_METHODS:
            return params
        try:
            given = msgspec.json.decode(params, type=_Params).signature
        except msgspec.MsgspecError as error:
            raise InvalidParams("params.signature: must hold text, key and value.") from error
        if given is None or given.key not in signers:
            raise _refused(f"The host's owner wants {method} signed by a key that is listed")
        signed = _verified(given)
        self._check(method, signed)
        return signed.params

    def _check(self, method: str, signed: SignedText) -> None:
        now = self._clock()
        if (signed.purpose, signed.method, signed.agent_id) != (PURPOSE, method, self._agent_id):
            raise _refused("The signature is for another method or agent")
        if not signed.not_before - MAX_SKEW_S <= now <= signed.not_after:
            raise _refused("The signature is not valid at this time; compare the clocks, or sign anew")
        if signed.not_after - signed.not_before > MAX_WINDOW_S:
            raise _refused("The signature is valid for more than 7 days")
        if method in SIGNED_JOBS:
            # The store of jobs knows a job's id for 90 days and never runs it twice.
            if msgspec.json.decode(signed.params, type=_Params).job_id != signed.id:
                raise _refused("The signature's id is not the job's")
            return
        self._used = {used: until for used, until in self._used.items() if until >= now}
        if signed.id in self._used or len(self._used) >= MAX_USED:
            raise _refused("The signature was used already")
        if signed.not_before < self._began:
            raise _refused("The signature is older than the agent's process; sign anew")
        self._used[signed.id] = signed.not_after


def _verified(given: Signature) -> SignedText:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - 6 MB, only for owners who list signers
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - the same

    text = given.text.encode()
    try:
        value = base64.b64decode(given.value, validate=True)
        Ed25519PublicKey.from_public_bytes(public_key(given.key)).verify(value, text)
    except (ValueError, InvalidSignature) as error:
        raise _refused("The signature is wrong") from error
    try:
        return msgspec.json.decode(text, type=SignedText)
    except msgspec.MsgspecError as error:
        raise _refused("The signed text is not what obt-agent sign writes") from error


def _refused(why: str) -> NotPermitted:
    return NotPermitted(f"{why} ({KEY} in the agent's configuration).", policy_key=KEY)
