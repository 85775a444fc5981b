"""Printing of text that the terminal's encoding lacks: replaced, never the end of a program.

A terminal may be latin-1 or ASCII (``LANG=en_US`` without ``.UTF-8``, ``PYTHONIOENCODING``), and names of
models and files may hold anything. Python would raise ``UnicodeEncodeError``
at the ``print``, after the work was done.
"""

from __future__ import annotations

import codecs
import io
import sys
from typing import Any, Final

ERRORS: Final = "obt-agent.plain"
"""Name of the error handler in Python's registry of codecs."""

# As wide as what they replace wherever possible, so that the columns of a table stay in line.
_PLAIN: Final = str.maketrans(
    {
        "\u2013": "-",
        "\u2014": "-",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2022": "*",
        "\u2026": "...",
        "\u2190": "<",
        "\u2192": ">",
        "\u2248": "~",
        "\u2264": "<=",
        "\u2265": ">=",
        "\u00a0": " ",
        "\u00b0": "",  # "21 °C" becomes "21 C"
        "\u00b1": "+/-",
        "\u00b2": "2",
        "\u00b5": "u",
        "\u00b7": "|",
        "\u00d7": "x",
        "\u03bc": "u",
        "\u2588": "#",
        **dict.fromkeys("\u2501\u2500\u2550\u2578\u257a\u257c\u257e", "-"),
        **dict.fromkeys("\u2502\u2503\u2551", "|"),
        # rich's spinner: eight dots in one cell
        **{chr(point): "*" for point in range(0x2800, 0x2900)},
    }
)


def replace_unencodable() -> None:
    """Let standard output and standard error replace what their encoding lacks.

    Typographic characters become the nearest in ASCII, anything else a backslash escape, so that two names
    that differ still differ. Streams that are no real ones (a test's, or none at all) are left alone.
    """
    codecs.register_error(ERRORS, _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def print_json(value: Any) -> None:
    """Print a value, of messages too, as indented JSON: what ``--json`` asks for."""
    import msgspec  # noqa: PLC0415 - a command that prints no JSON starts without it

    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.flush()
    # JSON is UTF-8 whatever the terminal's encoding is: what stands for a character that it lacks is no JSON.
    sys.stdout.buffer.write(text + b"\n")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    # A replacement must itself be encodable in whatever the stream has: hence ASCII and nothing else.
    return missing.translate(_PLAIN).encode("ascii", "backslashreplace").decode("ascii"), error.end
