"""Types of numbers that travel: as large as every other program, and a database's column, can hold."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A whole number of 64 bits with a sign."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""One that is not negative."""
PositiveInt = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""One that is at least 1."""
