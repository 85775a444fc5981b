import os
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent.cli import main
from tests.cli.program import Ended


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run a command within this process, in a folder and an environment that hold nothing."""
    for name in os.environ:
        if name.startswith(("OBT_", "OLLAMA_", "XDG_", "CLIENT_ID", "HEARTBEAT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, **environ: str) -> Ended:
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        try:
            code = main(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run
