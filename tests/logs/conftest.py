import logging
from collections.abc import Iterator

import pytest
import structlog

from obt_agent.log_setup import setup


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a test configures for the process, beside structlog itself, is undone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if setup._output is not None:  # noqa: SLF001 - the process's one output has no other name
        setup._output.close()  # noqa: SLF001 - the same
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
