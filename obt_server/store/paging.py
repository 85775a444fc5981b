"""Lists by time, page after page: rows of one moment are told apart by what else orders them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.orm import InstrumentedAttribute


def earlier(
    at: InstrumentedAttribute[float], before: float, beyond: ColumnElement[bool] | None
) -> ColumnElement[bool]:
    """Return what is true of the rows of a list, the newest first, that come after one of ``before``.

    Args:
        at: the time that orders the list.
        before: that of the last row that is known.
        beyond: what is true of rows of the same time that come after it; None: they are left out.
    """
    # With a bound of its own beside the alternative: no engine finds the place in its index by that alone.
    return at < before if beyond is None else and_(at <= before, or_(at < before, beyond))
