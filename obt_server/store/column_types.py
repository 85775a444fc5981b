"""Column types that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Dialect, Integer, String, Text, TypeDecorator, cast, func
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeEngine

from obt_agent.errors import InvalidParams


class NulInText(InvalidParams, DontWrapMixin):
    """A text holds what PostgreSQL's cannot; said as it is, and not as a fault of a statement."""


def check_text(value: object) -> None:
    """Raise NulInText where the value is a text that PostgreSQL cannot hold."""
    if isinstance(value, str) and "\0" in value:
        raise NulInText("A text with a NUL character (U+0000) cannot be stored.")


class NumberTooLarge(InvalidParams, DontWrapMixin):
    """A whole number has more than 64 bits; said as it is, and not as a fault of a statement."""


class WholeNumberType(TypeDecorator[int]):
    """A whole number of 64 bits.

    SQLite's INTEGER has them, and is its only type of keys that are numbered; PostgreSQL's has 32.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the engine's own type."""
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else BigInteger())

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Refuse what no column can hold: each driver would say it in its own way."""
        del dialect
        if value is not None and not -(1 << 63) <= value < 1 << 63:
            raise NumberTooLarge("A number has more than 64 bits.")
        return value


WholeNumber: Final = WholeNumberType()


def whole_sum(column: Any) -> ColumnElement[int]:
    """The sum of whole numbers, as one: PostgreSQL's sum of 64 bits is a decimal fraction."""
    return cast(func.sum(column), WholeNumber)


class PlainText(TypeDecorator[str]):
    """Text that sorts and compares by its bytes (UTF-8).

    PostgreSQL's default order is the database's language's, and its VARCHAR(n) refuses what SQLite takes: the
    lengths are bounds that are checked before anything comes here, and say what to expect.
    """

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the engine's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Text(collation="C"))
        return dialect.type_descriptor(self.impl_instance)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Refuse what PostgreSQL cannot hold, on every engine: a copy from one to the other must not fail."""
        del dialect
        check_text(value)
        return value
