"""``python -m tests.soak.counted FILE MODULE [ARGUMENT ...]``: run a module, and count what it holds.

Every few seconds the process writes to FILE how many tasks of asyncio are not done, and how many blocks of
memory Python's objects take. Nothing of the module changes: a thread of its own has the loop count.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import runpy
import sys
import threading
import time
from pathlib import Path

EVERY_S = 5.0


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that the main thread runs, whoever made it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, asyncio.Runner):
            return runner.get_loop()
        frame = frame.f_back
    return None


def count(file: Path, loop: asyncio.AbstractEventLoop) -> None:
    """Write the counts once; in the loop's own thread."""
    tasks = len(asyncio.all_tasks(loop))
    new = file.with_suffix(".new")
    # Blocks and not objects: a list of all objects from another thread holds tuples that are being made.
    new.write_text(json.dumps({"tasks": tasks, "blocks": sys.getallocatedblocks()}))
    new.replace(file)


def _count_repeatedly(file: Path) -> None:
    while True:
        time.sleep(EVERY_S)
        # Garbage that waits for the collector is no growth.
        gc.collect()
        loop = running_loop()
        if loop is not None:
            # At the end of the process the loop may close before the thread does.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(count, file, loop)


def main() -> None:
    """Run the module as if it had been started by its name."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    threading.Thread(target=_count_repeatedly, args=(file,), name="soak counts", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
