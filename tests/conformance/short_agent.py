"""``obt-agent`` with the times of its link shortened, and nothing else changed."""

import functools
import sys

from obt_agent import daemon
from obt_agent.cli import main
from obt_agent.daemon import components
from obt_agent.link.timings import LinkTimings
from tests.conformance.times import SHORT

TIMINGS = LinkTimings(alive_s=SHORT.alive_s, silence_s=SHORT.silence_s, stalled_s=SHORT.stalled_s, tick_s=0.1)

if __name__ == "__main__":
    daemon.build = functools.partial(components.build, timings=TIMINGS)  # type: ignore[attr-defined] # its own name for it
    sys.exit(main())
