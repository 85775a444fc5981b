"""A streamed command's items and result, for one reader, wherever the agent's socket is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from obt_agent.protocol import codec
from obt_agent.protocol.methods import METHODS
from obt_agent.protocol.streams import Item, SeriesItem


class AgentStream(ABC):
    """A streamed command's items and result, for one reader.

    ``async for item in stream`` gives each item decoded: an ``Item`` of ``obt_agent.protocol.streams``, or of
    a series a ``SeriesItem``. ``text_batches`` gives them as the agent wrote them, to pass them on.

    Args:
        method: the command; its type of item and of result go by it.
    """

    def __init__(self, method: str) -> None:
        self._method = METHODS[method]

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Items as they come, until ``result`` is there. Raises as ``text_batches``."""
        type_ = SeriesItem if self._method.shape == "series" else Item
        async for batch in self.text_batches():
            for text in batch:
                yield codec.convert(text, type_, where="item")

    @abstractmethod
    def text_batches(self) -> AsyncIterator[list[bytes]]:
        """Items that came together, each as JSON text; ends when ``result`` is there.

        Raises:
            DeadlineExceeded: nothing came for the stream's silence.
            AgentError: what the agent answered, or ``LinkLost``.
        """

    @property
    def result(self) -> Any:
        """The final result once the items have ended: a ``StreamFinal``, or of a series a ``SeriesFinal``."""
        return codec.convert(self.result_text, self._method.result, where="result")

    @property
    @abstractmethod
    def result_text(self) -> bytes:
        """The final result as JSON text, once the items have ended."""
