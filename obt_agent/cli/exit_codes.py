"""How commands end. The numbers from 64 on are those of ``sysexits.h``."""

from __future__ import annotations

from typing import Final

from obt_agent import errors

OK: Final = 0
# It was tried and did not work, or ``check`` found a failure.
FAILED: Final = 1
# The command line itself is wrong.
USAGE: Final = 2
# Ollama or the server cannot be reached.
UNAVAILABLE: Final = 69
# A fault of this program.
SOFTWARE: Final = 70
# Another process is in the way, or something is busy: later it may work.
TEMPORARY: Final = 75
# The user, the host's policy or the server does not allow it.
NO_PERMISSION: Final = 77
# The configuration or the credential cannot be used; starting again changes nothing.
CONFIG: Final = 78
# Ended by Ctrl-C.
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "done",
    FAILED: "it was tried and failed, or a check found a failure",
    USAGE: "the command line is wrong",
    UNAVAILABLE: "Ollama or the server cannot be reached",
    SOFTWARE: "a fault of this program",
    TEMPORARY: "something is in use or busy; try again later",
    NO_PERMISSION: "not allowed",
    CONFIG: "the configuration or the credential cannot be used",
    INTERRUPTED: "ended by Ctrl-C",
}

_OF_ERRORS: Final[tuple[tuple[type[errors.AgentError], int], ...]] = (
    (errors.ConfigError, CONFIG),
    (errors.NotPermitted, NO_PERMISSION),
    (errors.OllamaUnavailable, UNAVAILABLE),
    (errors.LinkLost, UNAVAILABLE),
    (errors.Busy, TEMPORARY),
    (errors.StorageFailed, TEMPORARY),
    (errors.DeadlineExceeded, TEMPORARY),
)


def of(error: errors.AgentError) -> int:
    """Return the code for an error that ends a command."""
    # Another agent has the identity: it may end, and then this one may go on.
    if error.kind == "identity_in_use":
        return TEMPORARY
    if isinstance(error, errors.ConfigError) and error.retryable:
        # A full or read-only disk: 75 has the service started again, 78 would leave it down for good.
        return TEMPORARY
    if isinstance(error, errors.AdmissionRefused):
        return UNAVAILABLE if error.retryable else NO_PERMISSION
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), FAILED)
