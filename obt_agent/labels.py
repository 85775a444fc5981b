"""Labels of a machine: short words by which people group and find machines. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

MAX_LABELS: Final = 16
"""Of each origin: the machine's own configuration, and the server's operators."""
MAX_LABEL_CHARS: Final = 63
LABEL_RULE: Final = f"words of a-z, 0-9 and . _ : = / - inside, at most {MAX_LABEL_CHARS} characters"

# Lower case and ASCII alone: "Lab" and "lab" would be two groups that people take for one, and labels stand
# in addresses and command lines. The end is written without "$", which in Python also stands before a last
# line end; JSON Schema has no "\Z".
Label = Annotated[
    str,
    Meta(
        max_length=MAX_LABEL_CHARS,
        pattern=r"^[a-z0-9]([a-z0-9._:=/-]*[a-z0-9])?(?![\s\S])",
        description=LABEL_RULE,
    ),
]
Labels = Annotated[
    tuple[Label, ...], Meta(max_length=MAX_LABELS, description=f"a list of at most {MAX_LABELS} labels")
]
