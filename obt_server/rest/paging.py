"""Queries for the next page of a list, the newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Before = Annotated[
    float | None,
    Query(
        allow_inf_nan=False, description="the time of the last one shown (Unix seconds): only earlier ones"
    ),
]
_OF_THE_LAST = "with `before`, the id of the last one shown: also those of the same time that come after it"
BeforeId = Annotated[str | None, Query(max_length=128, description=_OF_THE_LAST)]
BeforeNumber = Annotated[int | None, Query(description=_OF_THE_LAST)]
BeforeAgent = Annotated[
    str | None, Query(max_length=128, description="with `before_id`, the agent's id of the last one shown")
]
