"""A credential as an ``Authorization`` header."""

from __future__ import annotations

import re
from typing import Final

from obt_agent.identity.secret import Secret
from obt_agent.link.disconnect import NextDial, dial_failed

_VISIBLE: Final = re.compile(r"[!-~]+")


def bearer(secret: Secret) -> str:
    """Return the value of an ``Authorization`` header (RFC 6750, section 2.1).

    Raises:
        DialFailed: the secret holds what cannot stand in a header, such as a space or a line's end.
    """
    text = secret.reveal()
    if not _VISIBLE.fullmatch(text):
        message = "The credential is empty, or holds a space, a line's end or a character outside ASCII."
        raise dial_failed("credential_unusable", message, NextDial.MAX_BACKOFF) from None
    return f"Bearer {text}"
