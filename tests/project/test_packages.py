"""The four packages can be imported, and so are measured, tested or not."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from obt_agent import __version__

PACKAGES = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_in_its_first_line_what_it_is(package: str) -> None:
    docstring = importlib.import_module(package).__doc__
    assert docstring
    assert docstring.strip().endswith(".")


def test_the_agent_needs_none_of_the_other_packages_to_start(tmp_path: Path) -> None:
    others = f"sorted({set(PACKAGES) - {'obt_agent'}} & set(sys.modules))"
    code = f"import sys, obt_agent; print(obt_agent.__version__, {others})"
    docstring = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert docstring.stdout.split(maxsplit=1) == [__version__, "[]\n"]
