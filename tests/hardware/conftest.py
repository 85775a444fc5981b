"""What the tests of hardware share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from obt_agent.hardware.providers.nvml import Nvml
from tests.hardware.nvml.fake import FakeDriver, build


@pytest.fixture(scope="session")
def built_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def built_old_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("old-nvml"), "-DOLD_DRIVER")


@pytest.fixture
def driver(built_driver: Path, tmp_path: Path) -> Iterator[FakeDriver]:
    yield FakeDriver(copied(built_driver, tmp_path))
    Nvml().unload()


@pytest.fixture
def old_driver(built_old_driver: Path, tmp_path: Path) -> Iterator[FakeDriver]:
    yield FakeDriver(copied(built_old_driver, tmp_path))
    Nvml().unload()


def copied(library: Path, folder: Path) -> Path:
    """A copy of its own for each test: another file is another library to the loader."""
    place = folder / "driver"
    place.mkdir()
    return Path(shutil.copy2(library, place))
