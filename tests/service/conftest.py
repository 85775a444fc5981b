"""What several tests of the service need."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def passable_path() -> Iterator[Path]:
    """A folder that all users may enter, like its parents.

    None of pytest's: each start of pytest takes the rights of others away from the folder above ``tmp_path``.
    """
    with tempfile.TemporaryDirectory(prefix="obt-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
