"""An agent or a server that kills itself (SIGKILL) at one step of a job's life.

``python -m tests.faults.kill_at_step agent|server STEP before|after ARGUMENT...`` runs the program with these
arguments; it dies the first time that it would commit, or has just committed, that step.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from obt_agent.cli import main as agent
from obt_agent.jobs.store.database import JobDatabase
from obt_server.cli import main as server
from obt_server.store import SqlStorage


def die() -> NoReturn:
    """At once, as when the power fails."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def kill_at_step(program: str, step: str, when: str) -> Callable[[list[str]], int]:
    """Put the death into the program; gives its entry."""
    owner: Any = JobDatabase if program == "agent" else SqlStorage
    commits = getattr(owner, step)

    def in_thread(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            die()
        commits(*arguments, **named)
        die()

    async def in_loop(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            die()
        await commits(*arguments, **named)
        die()

    setattr(owner, step, in_thread if program == "agent" else in_loop)
    return agent if program == "agent" else server


if __name__ == "__main__":
    sys.exit(kill_at_step(*sys.argv[1:4])(sys.argv[4:]))
