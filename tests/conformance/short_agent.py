"""``obt-agent`` with the times of its link shortened, and nothing else changed."""

import functools
import sys

from obt_agent import agent
from obt_agent.agent import rooms
from obt_agent.cli import main
from obt_agent.link.settings import Timings
from tests.conformance.times import SHORT

TIMINGS = Timings(alive_s=SHORT.alive_s, silence_s=SHORT.silence_s, stalled_s=SHORT.stalled_s, tick_s=0.1)

if __name__ == "__main__":
    agent.build = functools.partial(rooms.build, timings=TIMINGS)  # type: ignore[attr-defined] # its own name for it
    sys.exit(main())
