"""What whoever keeps something in a database needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

P = ParamSpec("P")
T = TypeVar("T")
Statement: TypeAlias = "Select[*tuple[Any, ...]]"
Rows: TypeAlias = list[tuple[Any, ...]]


class Transactions(Protocol):
    """See ``Database`` for what each method promises."""

    async def run(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Write."""

    def run_later(
        self, work: Callable[Concatenate[Session, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Write, for nobody who waits."""

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read."""

    async def look_up(self, statement: Statement, **parameters: str) -> Rows:
        """Read, in one statement."""

    async def run_for(
        self, agent_id: str, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write, for an agent and at its expense."""

    async def run_apart(
        self, within_s: float, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write, behind nobody."""
