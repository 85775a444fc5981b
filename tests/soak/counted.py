"""``python -m tests.soak.counted FILE MODULE [ARGUMENT ...]``: run a module, and count what it holds.

Every few seconds the process writes to FILE how many tasks of asyncio are not done, and how many objects
Python's collector knows. Nothing of the module changes: a thread of its own counts.
"""

from __future__ import annotations

import asyncio
import gc
import json
import runpy
import sys
import threading
import time
from pathlib import Path

EVERY_S = 5.0


def count(file: Path) -> None:
    """Write the counts once."""
    objects = gc.get_objects()
    tasks = sum(1 for one in objects if type(one) is asyncio.Task and not one.done())
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"tasks": tasks, "objects": len(objects)}))
    new.replace(file)


def _count_repeatedly(file: Path) -> None:
    while True:
        time.sleep(EVERY_S)
        # Garbage that waits for the collector is no growth.
        gc.collect()
        count(file)


def main() -> None:
    """Run the module as if it had been started by its name."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    threading.Thread(target=_count_repeatedly, args=(file,), name="soak counts", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
