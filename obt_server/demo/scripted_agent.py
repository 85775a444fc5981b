"""``python -m obt_server.demo.scripted_agent GPUS CONFIG``: the agent itself, with GPUs that are scripted.

A program of its own, which the demonstration starts: no setting of ``obt-agent`` leads here. ``GPUS`` is a
file with a JSON list of ``GpuScript``; an empty one is a machine without a GPU, whatever this one has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from obt_agent import daemon
from obt_agent.config.load import load
from obt_agent.log_setup.setup import LogSettings, configure
from obt_server.demo.scripted_gpus import ScriptedGpus, load_of, read_scripts


def main(arguments: Sequence[str]) -> int:
    """Run until a signal; return the exit status."""
    gpus, config = arguments
    loaded = load(config, need_server=True)
    output = configure(LogSettings(level="info", format="console"))
    scripts = read_scripts(Path(gpus).read_text())
    providers = [ScriptedGpus(scripts, partial(load_of, loaded.config.ollama.url))] if scripts else []
    try:
        return daemon.run(loaded, providers)
    finally:
        output.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
