"""What the tests of hardware share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.hardware.nvml.fake import FakeDriver, build


@pytest.fixture(scope="session")
def built_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def built_old_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("old-nvml"), "-DOLD_DRIVER")


@pytest.fixture
def driver(built_driver: Path, tmp_path: Path) -> Iterator[FakeDriver]:
    driver = FakeDriver(copied(built_driver, tmp_path))
    yield driver
    forget(driver)


@pytest.fixture
def old_driver(built_old_driver: Path, tmp_path: Path) -> Iterator[FakeDriver]:
    driver = FakeDriver(copied(built_old_driver, tmp_path))
    yield driver
    forget(driver)


def copied(library: Path, folder: Path) -> Path:
    """A copy of its own for each test: another file is another library to the loader."""
    place = folder / "driver"
    place.mkdir()
    return Path(shutil.copy2(library, place))


def forget(driver: FakeDriver) -> None:
    """Let hung calls go, and have the binding load afresh; this library stays, for a thread may be in it."""
    driver.let_go()
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 -- its pointers lead into the old library
