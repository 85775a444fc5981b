"""Where the checks of an agent are entered."""

from __future__ import annotations

from typing import Final

from obt_conformance.agent_stage import AgentStage
from obt_conformance.verdict import Book

BOOK: Final[Book[AgentStage]] = Book()
