"""Where the checks of a server are entered."""

from __future__ import annotations

from typing import Final

from obt_conformance.stage import Stage
from obt_conformance.verdict import Book

BOOK: Final[Book[Stage]] = Book()
